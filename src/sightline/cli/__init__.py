"""The command line: one thin function for each command; only here is anything printed or the environment read."""
