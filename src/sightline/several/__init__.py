"""Several indexes at once: one ranking of all, or the same queries side by side."""
