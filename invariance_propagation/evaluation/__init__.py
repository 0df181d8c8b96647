"""What the features are worth, and what propagation reaches."""
