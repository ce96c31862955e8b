"""Experiments, their serialization and training, and runs."""
