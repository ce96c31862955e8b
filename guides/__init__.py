r"""Pyro guides.

| name | q(z \| x) |
| --- | --- |
| `Gaussian` | independent dimensions |
| `FullRank` | full covariance |
| `FlowGuide` | either of them pushed through any flow, static or conditioned on x |
| `SemiAmortized` | a Gaussian that climbs the ELBO of its datum, from where the encoder puts it |
| `AutoFlow` | any flow over all latent variables of any Pyro model |
| `NoGuide` | nothing: for models without a latent, whose ELBO is log p(x) |
| `UniformNoise`, `FlowNoise` | the noise that makes counts continuous, for flows as models of data |
"""

from flowvae.guides.amortized import AmortizedGuide, GuideSpec
from flowvae.guides.automatic.auto_flow import AutoFlow
from flowvae.guides.dequantization import FlowNoise, UniformNoise
from flowvae.guides.flow import FlowGuide
from flowvae.guides.gaussian import FullRank, Gaussian
from flowvae.guides.no_guide import NoGuide
from flowvae.guides.semi_amortized import SemiAmortized, SemiAmortizedGuide

__all__ = [
    "AmortizedGuide",
    "AutoFlow",
    "FlowGuide",
    "FlowNoise",
    "FullRank",
    "Gaussian",
    "GuideSpec",
    "NoGuide",
    "SemiAmortized",
    "SemiAmortizedGuide",
    "UniformNoise",
]
