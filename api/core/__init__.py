"""Core of the package: errors, files, seeds, and the specs and names of parts."""
