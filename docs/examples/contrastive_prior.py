"""A prior trained in its own way: reweight N(0, I) by a classifier that tells codes from its draws.

p(z) = r(z) N(z; 0, I) / Z with r = D / (1 − D). A linear classifier D of codes N(m, 1) is exact, with Z = 1. After
Aneja, Schwing, Kautz & Vahdat (2021), "A Contrastive Learning Approach for Training Variational Autoencoder Priors".
"""

from dataclasses import dataclass, field
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.nn.functional import softplus
from zuko.lazy import LazyDistribution

from flowvae import MLP, Experiment, NetworkSpec, PriorSpec, SecondStage

NONE = Size()


@dataclass(frozen=True)
class ContrastivePrior(PriorSpec, name="contrastive"):
    """N(0, I) times the odds that a classifier gives to being a code."""

    classifier: NetworkSpec = field(default_factory=lambda: MLP((32,)))
    draws: int = 4096

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return _Contrastive(self.classifier.build(Size((features,)), Size((1,))), features, self.draws)


class _Contrastive(LazyDistribution):
    def __init__(self, classifier: nn.Module, features: int, draws: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("noise", torch.randn(draws, features))  # for Z, and to draw from

    def objective(self, codes: Tensor) -> Tensor:
        """Cross-entropy of codes against draws of N(0, I), in nats per code; a second stage minimizes it."""
        others = self.classifier(torch.randn_like(codes))
        return (softplus(-self.classifier(codes)) + softplus(others)).mean()

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        # importance resampling from fixed draws of N(0, I): an empirical distribution, whose density is the model's
        return _Reweighted(self.classifier, self.noise)


class _Reweighted(dist.TorchDistribution):
    arg_constraints: ClassVar[dict] = {}
    support = dist.constraints.real_vector

    def __init__(self, classifier: nn.Module, noise: Tensor) -> None:
        self.classifier, self.noise = classifier, noise
        self.log_odds = classifier(noise).squeeze(-1)
        self.log_z = self.log_odds.logsumexp(0) - torch.tensor(float(len(noise))).log()
        super().__init__(Size(), noise.shape[1:], validate_args=False)

    def log_prob(self, z: Tensor) -> Tensor:
        normal = dist.Normal(torch.zeros_like(z), 1.0).to_event(1)
        return normal.log_prob(z) + self.classifier(z).squeeze(-1) - self.log_z

    def sample(self, sample_shape: Size = NONE) -> Tensor:
        index = dist.Categorical(logits=self.log_odds).sample(Size(sample_shape) + self.batch_shape)
        return self.noise[index]

    def expand(self, batch_shape: Size, _instance: object = None) -> "_Reweighted":
        new = _Reweighted(self.classifier, self.noise)
        dist.TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new


def experiment() -> Experiment:
    """Digits, and this prior fitted to their codes afterwards."""
    return Experiment(second_stage=SecondStage(ContrastivePrior()))
