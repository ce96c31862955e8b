r"""Pyro guides.

| name | q(z \| x) |
| --- | --- |
| `Gaussian` | independent dimensions |
| `FullRank` | full covariance |
| `FixedVariance` | independent dimensions of one constant variance |
| `FlowGuide` | a `Gaussian` or `FullRank` pushed through any flow, static or conditioned on x |
| `SemiAmortized` | a Gaussian, refined by gradient steps on the ELBO of each data point |
| `AutoFlow` | any flow over all latent variables of any Pyro model, with encoders for those inside plates of data |
| `SelfSupervisedGuide` | the two codes of `flowvae.models.SelfSupervisedVAE` |
| `NoGuide` | empty: for models without latent variables, whose ELBO is log p(x) |
| `UniformNoise`, `FlowNoise` | the noise that makes counts continuous, for flows as models of data |
"""

import flowvae.core.validation  # noqa: F401  (before zuko)
from flowvae.core.parts import GuideSpec
from flowvae.guides.amortized import AmortizedGuide
from flowvae.guides.automatic.auto_flow import AutoFlow
from flowvae.guides.dequantization import FlowNoise, UniformNoise
from flowvae.guides.fixed_variance import FixedVariance
from flowvae.guides.flow import FlowGuide
from flowvae.guides.gaussian import FullRank, Gaussian
from flowvae.guides.no_guide import NoGuide
from flowvae.guides.self_supervised import SelfSupervisedGuide
from flowvae.guides.semi_amortized import SemiAmortized, SemiAmortizedGuide

__all__ = [
    "AmortizedGuide",
    "AutoFlow",
    "FixedVariance",
    "FlowGuide",
    "FlowNoise",
    "FullRank",
    "Gaussian",
    "GuideSpec",
    "NoGuide",
    "SelfSupervisedGuide",
    "SemiAmortized",
    "SemiAmortizedGuide",
    "UniformNoise",
]
