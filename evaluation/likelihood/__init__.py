"""Likelihood measures: importance weights, bounds, annealed importance sampling."""
