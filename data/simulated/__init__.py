"""Simulated data sets."""
