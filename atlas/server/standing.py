"""What `Directory.status()` says, read for the commands: which leases are overdue, and the findings of `atlas doctor`."""
