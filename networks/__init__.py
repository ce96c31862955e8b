"""Networks: encoder trunks and decoders, and the way their parameters meet Pyro."""

from flowvae.networks.mlp import MLP, Standardize
from flowvae.networks.parameters import declare_parameters

__all__ = ["MLP", "Standardize", "declare_parameters"]
