"""Models of our own shape: a picture tower of convolutions and a small text tower."""
