"""Measures of the latent space: aggregated posterior, holes, activity, interpolation."""
