r"""Pyro guides.

| name | q(z \| x) |
| --- | --- |
| `Gaussian` | independent dimensions |
| `FullRank` | full covariance |
| `FlowGuide` | either of them pushed through any flow, static or conditioned on x |
| `NoGuide` | nothing: for models without a latent |
"""

from flowvae.guides.amortized import AmortizedGuide, GuideSpec
from flowvae.guides.flow import FlowGuide
from flowvae.guides.gaussian import FullRank, Gaussian
from flowvae.guides.no_guide import NoGuide

__all__ = ["AmortizedGuide", "FlowGuide", "FullRank", "Gaussian", "GuideSpec", "NoGuide"]
