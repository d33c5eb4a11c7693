"""The commands of `atlas`, one file for each thing that one does with the map. Thin: parse, call, print."""
