"""The embedded store: a folder with a SQLite database and memory-mapped vectors, scanned exactly."""
