"""Linear flows."""
