"""One file for each command or family of commands. `sidecar.cli` names them in a table and imports one when it is run: in each
file the click command is called like the file says there."""
