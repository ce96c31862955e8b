"""Data sets, and the likelihoods that say what their numbers are."""

from flowvae.data.arrays import Arrays
from flowvae.data.dataset import DataIdentity, Dataset, DataSpec
from flowvae.data.digits import Digits
from flowvae.data.likelihoods import (
    Bernoulli,
    Binomial,
    Gaussian,
    Likelihood,
    LikelihoodSpec,
    parse_likelihood,
)
from flowvae.data.moons import Moons
from flowvae.data.pinwheel import Pinwheel
from flowvae.data.sprites import Sprites

__all__ = [
    "Arrays",
    "Bernoulli",
    "Binomial",
    "DataIdentity",
    "DataSpec",
    "Dataset",
    "Digits",
    "Gaussian",
    "Likelihood",
    "LikelihoodSpec",
    "Moons",
    "Pinwheel",
    "Sprites",
    "parse_likelihood",
]
