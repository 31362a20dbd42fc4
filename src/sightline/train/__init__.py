"""Learning two towers from captioned pictures."""
