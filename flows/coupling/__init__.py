"""Coupling flows."""
