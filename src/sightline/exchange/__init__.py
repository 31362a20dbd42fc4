"""Move an index: to another store, into files for other programs, and from such files."""
