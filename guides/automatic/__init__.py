"""Guides for any Pyro model."""
