"""Planar, radial and Sylvester flows."""
