"""Pyro models: the VAE, flows as models of data, the linear-Gaussian oracle, and priors that are not flows."""

from flowvae.models.dequantized import DequantizedFlow
from flowvae.models.flow_model import FlowModel
from flowvae.models.linear_gaussian import LinearGaussian
from flowvae.models.priors import Mixture, PriorSpec, StandardNormal
from flowvae.models.vae import VAE

__all__ = ["VAE", "DequantizedFlow", "FlowModel", "LinearGaussian", "Mixture", "PriorSpec", "StandardNormal"]
