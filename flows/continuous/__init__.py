"""Continuous flows."""
