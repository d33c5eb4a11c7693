"""The sidecar: keeps the HAProxy of its host in step with the map, and speaks in the map for the instances of its host."""
