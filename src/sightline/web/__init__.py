"""The web room: the one HTTP client, downloads that resume, and which addresses may be reached."""
