"""Builds the site: executed notebooks, pages, and the reference from docstrings; `python -m website` in docs/."""
