"""Trained weights turned into a model folder, with the proof that it gives the same vectors."""
