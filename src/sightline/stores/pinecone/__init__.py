"""Records kept in a Pinecone index: one namespace for the records, one beside it for the notes."""
