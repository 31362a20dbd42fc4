"""The command line: one thin function for each command, the only rooms that print, exit and read the environment."""
