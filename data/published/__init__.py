"""Published image data sets by name."""
