"""Pyro models: the VAE, flows and autoregressive models of data, other priors, and small models that teach.

Models that teach hold their data and are called without arguments, so that any Pyro guide fits them:
`AutoNormal(EightSchools())`.
"""

from flowvae.models.autoregressive import Autoregressive, AutoregressiveModel
from flowvae.models.banana import Banana
from flowvae.models.dequantized import DequantizedFlow
from flowvae.models.discretized import DiscretizedLogisticMixture
from flowvae.models.eight_schools import EightSchools
from flowvae.models.flow_decoder import FlowDecoder
from flowvae.models.flow_model import FlowModel
from flowvae.models.funnel import Funnel
from flowvae.models.garch import Garch11
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
from flowvae.models.ordered_mixture import OrderedMixture, OrderedNormal
from flowvae.models.priors import Mixture, PriorSpec, StandardNormal, check_prior, warn_if_improper
from flowvae.models.product_rule import ProductRule
from flowvae.models.reference_models import REFERENCE_MODELS, reference_model
from flowvae.models.regression import LinearRegression
from flowvae.models.vae import VAE

__all__ = [
    "REFERENCE_MODELS",
    "VAE",
    "Autoregressive",
    "AutoregressiveModel",
    "Banana",
    "BernoulliHead",
    "CategoricalHead",
    "DequantizedFlow",
    "DiscretizedLogisticMixture",
    "EightSchools",
    "FlowDecoder",
    "FlowModel",
    "Funnel",
    "Garch11",
    "GaussianMixtureHead",
    "Head",
    "HeadSpec",
    "LinearGaussian",
    "LinearRegression",
    "LogisticMixtureHead",
    "Mixture",
    "OrderedMixture",
    "OrderedNormal",
    "PriorSpec",
    "ProductRule",
    "StandardNormal",
    "check_prior",
    "default_head",
    "reference_model",
    "warn_if_improper",
]
