"""Captured programs of model and guide."""
