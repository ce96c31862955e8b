"""Image flows."""
