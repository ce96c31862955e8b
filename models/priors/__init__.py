"""Priors that are not flows."""
