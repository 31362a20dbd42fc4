"""Qdrant as a store."""
