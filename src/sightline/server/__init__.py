"""The server room: an index turned into an HTTP API and a web page."""
