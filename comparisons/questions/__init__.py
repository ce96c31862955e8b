"""Questions, one a file."""
