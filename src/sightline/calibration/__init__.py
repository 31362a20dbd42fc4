"""What an index learns about itself: from which score a hit is likely, and how widely its engine has to search."""
