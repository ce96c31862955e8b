"""Data sets, the likelihoods that say what their numbers are, and reference posteriors."""

from flowvae.data.arrays import Arrays
from flowvae.data.dataset import DataIdentity, Dataset, DataSpec
from flowvae.data.digits import Digits
from flowvae.data.likelihoods import (
    BernoulliLikelihood,
    BinomialLikelihood,
    GaussianLikelihood,
    Likelihood,
    LikelihoodSpec,
    parse_likelihood,
)
from flowvae.data.posteriordb import REFERENCES, Reference, load_reference
from flowvae.data.simulated.moons import Moons
from flowvae.data.simulated.pinwheel import Pinwheel
from flowvae.data.simulated.sprites import Sprites
from flowvae.data.static_mnist import StaticMNIST

__all__ = [
    "REFERENCES",
    "Arrays",
    "BernoulliLikelihood",
    "BinomialLikelihood",
    "DataIdentity",
    "DataSpec",
    "Dataset",
    "Digits",
    "GaussianLikelihood",
    "Likelihood",
    "LikelihoodSpec",
    "Moons",
    "Pinwheel",
    "Reference",
    "Sprites",
    "StaticMNIST",
    "load_reference",
    "parse_likelihood",
]
