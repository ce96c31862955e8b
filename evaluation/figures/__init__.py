"""Figures of data, latent spaces, measures and runs."""
