"""Learning a small fast model from the vectors that a large one gave."""
