"""What an index says of itself without training: labels, copies, facets, a map."""
