"""Pyro models: the VAE, the linear-Gaussian oracle, and priors that are not flows."""

from flowvae.models.linear_gaussian import LinearGaussian
from flowvae.models.priors import Mixture, PriorSpec, StandardNormal
from flowvae.models.vae import VAE

__all__ = ["VAE", "LinearGaussian", "Mixture", "PriorSpec", "StandardNormal"]
