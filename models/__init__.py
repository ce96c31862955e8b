"""Pyro models: the VAE, flows and autoregressive models of data, priors, likelihoods, and small example models.

The example models except `LinearGaussian` hold any data that they need and are called without arguments, so that any
Pyro guide works with them: `AutoNormal(EightSchools())`.
"""

import flowvae.core.validation  # noqa: F401  (before zuko)
from flowvae.models.autoregressive import Autoregressive, AutoregressiveModel
from flowvae.models.dequantized import DequantizedFlow
from flowvae.models.examples.banana import Banana
from flowvae.models.examples.eight_schools import EightSchools
from flowvae.models.examples.funnel import Funnel
from flowvae.models.examples.garch import Garch11
from flowvae.models.examples.linear_gaussian import LinearGaussian
from flowvae.models.examples.ordered_mixture import OrderedMixture, OrderedNormal
from flowvae.models.examples.reference_models import REFERENCE_MODELS, reference_model
from flowvae.models.examples.regression import LinearRegression
from flowvae.models.flow_decoder import FlowDecoder
from flowvae.models.flow_model import FlowModel
from flowvae.models.likelihoods.autoregressive_distribution import AutoregressiveDistribution
from flowvae.models.likelihoods.autoregressive_likelihoods import (
    AutoregressiveBernoulli,
    AutoregressiveCategorical,
    AutoregressiveGaussianMixture,
    AutoregressiveLikelihood,
    AutoregressiveLikelihoodSpec,
    AutoregressiveLogisticMixture,
    default_autoregressive_likelihood,
)
from flowvae.models.likelihoods.bernoulli import BernoulliLikelihood
from flowvae.models.likelihoods.binomial import BinomialLikelihood
from flowvae.models.likelihoods.categorical import CategoricalLikelihood
from flowvae.models.likelihoods.continuous_bernoulli import ContinuousBernoulli, ContinuousBernoulliLikelihood
from flowvae.models.likelihoods.discretized import DiscretizedLogistic
from flowvae.models.likelihoods.discretized_logistic import DiscretizedLogisticLikelihood
from flowvae.models.likelihoods.gaussian import GaussianLikelihood
from flowvae.models.likelihoods.image_flow import ImageFlowDistribution, ImageFlowLikelihood
from flowvae.models.likelihoods.likelihood import Likelihood
from flowvae.models.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureLikelihood
from flowvae.models.likelihoods.negative_binomial import (
    NegativeBinomial,
    NegativeBinomialLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
)
from flowvae.models.likelihoods.pixelcnn import PixelCNNDistribution, PixelCNNLikelihood
from flowvae.models.likelihoods.poisson import PoissonLikelihood
from flowvae.models.likelihoods.student_t import StudentTLikelihood
from flowvae.models.priors.checks import check_prior, warn_if_improper
from flowvae.models.priors.conditional_base import ConditionalBase
from flowvae.models.priors.contrastive import Contrastive
from flowvae.models.priors.energy import Energy
from flowvae.models.priors.exemplar import Exemplar
from flowvae.models.priors.flow_matching import FlowMatching
from flowvae.models.priors.gtm import GTM
from flowvae.models.priors.latent_variable import LatentVariablePrior
from flowvae.models.priors.mixture import Mixture
from flowvae.models.priors.mixture_flow import MixtureFlow
from flowvae.models.priors.sequence import SequenceDistribution, SequencePrior
from flowvae.models.priors.standard_normal import StandardNormal
from flowvae.models.priors.vamp import VampPrior
from flowvae.models.priors.vamp_gtm import VampGTM
from flowvae.models.self_supervised import Downscale, SelfSupervisedVAE
from flowvae.models.vae import VAE

__all__ = [
    "GTM",
    "REFERENCE_MODELS",
    "VAE",
    "Autoregressive",
    "AutoregressiveBernoulli",
    "AutoregressiveCategorical",
    "AutoregressiveDistribution",
    "AutoregressiveGaussianMixture",
    "AutoregressiveLikelihood",
    "AutoregressiveLikelihoodSpec",
    "AutoregressiveLogisticMixture",
    "AutoregressiveModel",
    "Banana",
    "BernoulliLikelihood",
    "BinomialLikelihood",
    "CategoricalLikelihood",
    "ConditionalBase",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "Contrastive",
    "DequantizedFlow",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "Downscale",
    "EightSchools",
    "Energy",
    "Exemplar",
    "FlowDecoder",
    "FlowMatching",
    "FlowModel",
    "Funnel",
    "Garch11",
    "GaussianLikelihood",
    "ImageFlowDistribution",
    "ImageFlowLikelihood",
    "LatentVariablePrior",
    "Likelihood",
    "LinearGaussian",
    "LinearRegression",
    "LogisticMixture",
    "LogisticMixtureLikelihood",
    "Mixture",
    "MixtureFlow",
    "NegativeBinomial",
    "NegativeBinomialLikelihood",
    "OrderedMixture",
    "OrderedNormal",
    "PixelCNNDistribution",
    "PixelCNNLikelihood",
    "PoissonLikelihood",
    "SelfSupervisedVAE",
    "SequenceDistribution",
    "SequencePrior",
    "StandardNormal",
    "StudentTLikelihood",
    "VampGTM",
    "VampPrior",
    "ZeroInflatedNegativeBinomialLikelihood",
    "check_prior",
    "default_autoregressive_likelihood",
    "reference_model",
    "warn_if_improper",
]
