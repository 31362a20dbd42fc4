"""Picture files: decoding to upright RGB pixels, metadata, thumbnails."""
