"""Builds the site of notebooks, pages and the reference from docstrings: `python -m website` in docs/."""
