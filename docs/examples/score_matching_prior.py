"""A prior with a custom training loss: a Gaussian fitted by score matching.

Score matching does not need the normalizing constant: it minimizes E[½ ‖∇ log p(z)‖² + tr ∇² log p(z)] over the codes.
For a Gaussian with precision P, this is E[½ ‖P (z − μ)‖²] − tr P, which is minimal at the mean and the covariance of
the codes. See Hyvärinen (2005), "Estimation of Non-Normalized Statistical Models by Score Matching".
"""

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import Experiment, PriorSpec, SecondStage


@dataclass(frozen=True)
class ScoreMatching(PriorSpec, name="score-matching"):
    """N(μ, P⁻¹), whose precision P = L Lᵀ is fitted by score matching."""

    conditional: ClassVar[bool] = False

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return _Gaussian(features)


class _Gaussian(LazyDistribution):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features))
        self.root = nn.Parameter(torch.eye(features))

    @property
    def precision(self) -> Tensor:
        lower = self.root.tril()
        return lower @ lower.T

    def objective(self, codes: Tensor) -> Tensor:
        """The loss that a second stage minimizes in place of −log p(z)."""
        score = (codes - self.mean) @ self.precision
        return score.square().sum(-1).mean() / 2 - self.precision.trace()

    def validate(self, codes: Tensor) -> Tensor:
        """The loss that selects the best epoch, here in nats per code; optional, by default the objective."""
        return -self().log_prob(codes).mean()

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        return dist.MultivariateNormal(self.mean, precision_matrix=self.precision)


def experiment() -> Experiment:
    """Digits, with this prior fitted to their codes in a second stage."""
    return Experiment(second_stage=SecondStage(ScoreMatching()))
