"""Filters on payloads: one grammar, one meaning, for every surface and every store."""
