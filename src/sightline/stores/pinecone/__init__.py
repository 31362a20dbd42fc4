"""Pinecone as a store."""
