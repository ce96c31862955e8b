r"""Pyro guides for the VAE.

| name | q(z \| x) |
| --- | --- |
| `Gaussian` | independent dimensions |
| `FullRank` | full covariance |
| `FlowGuide` | either of them pushed through any flow, static or conditioned on x |
"""

from flowvae.guides.amortized import AmortizedGuide, GuideSpec
from flowvae.guides.flow import FlowGuide
from flowvae.guides.gaussian import FullRank, Gaussian

__all__ = ["AmortizedGuide", "FlowGuide", "FullRank", "Gaussian", "GuideSpec"]
