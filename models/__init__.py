"""Pyro models: the VAE, flows and autoregressive models of data, the linear-Gaussian oracle, other priors."""

from flowvae.models.autoregressive import Autoregressive, AutoregressiveModel
from flowvae.models.dequantized import DequantizedFlow
from flowvae.models.discretized import DiscretizedLogisticMixture
from flowvae.models.flow_model import FlowModel
from flowvae.models.heads import (
    BernoulliHead,
    CategoricalHead,
    GaussianMixtureHead,
    Head,
    HeadSpec,
    LogisticMixtureHead,
    default_head,
)
from flowvae.models.linear_gaussian import LinearGaussian
from flowvae.models.priors import Mixture, PriorSpec, StandardNormal
from flowvae.models.product_rule import ProductRule
from flowvae.models.vae import VAE

__all__ = [
    "VAE",
    "Autoregressive",
    "AutoregressiveModel",
    "BernoulliHead",
    "CategoricalHead",
    "DequantizedFlow",
    "DiscretizedLogisticMixture",
    "FlowModel",
    "GaussianMixtureHead",
    "Head",
    "HeadSpec",
    "LinearGaussian",
    "LogisticMixtureHead",
    "Mixture",
    "PriorSpec",
    "ProductRule",
    "StandardNormal",
    "default_head",
]
