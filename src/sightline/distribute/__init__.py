"""Indexing spread over a Ray cluster, whose workers read, decode and encode into a server's store (an extra)."""
