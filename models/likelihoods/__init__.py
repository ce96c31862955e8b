"""Likelihoods: distributions over data that a network parametrizes."""
