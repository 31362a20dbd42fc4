"""The exchange room: an index turned into files that other programs read, and such files into an index."""
