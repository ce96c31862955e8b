"""Autoregressive flows."""
