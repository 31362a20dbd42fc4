"""The images room: the bytes of a file into upright RGB pixels, a payload, a thumbnail."""
