"""CLIP models of open_clip and transformers, as training and export see them."""
