"""Layers that flows are made of."""
