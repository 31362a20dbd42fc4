"""Measuring how well a model, or a store, finds what it should on one's own pictures."""
