"""The local Pinecone server once more, for indexes of pods, which most accounts cannot make any longer."""

from tests.engines.pinecone import start

__all__ = ["start"]
