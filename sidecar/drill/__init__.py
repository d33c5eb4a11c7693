"""The fault kit: faults that can be undone, and the drill that does them one after the other under load. See
`sidecar.drill.faults` for the faults, `docs/reference/faults.md` for what is expected of each."""
