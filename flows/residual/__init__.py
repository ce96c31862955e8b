"""Residual flows."""
