"""Items spread over a Ray cluster, whose workers read, decode and encode them into a server's store (an extra)."""
