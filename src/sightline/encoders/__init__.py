"""Encoders: models that turn pictures and texts into vectors of one space."""
