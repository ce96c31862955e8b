"""Exemplar prior: a Parzen window over the codes of the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int
from flowvae.core.parts import PriorSpec
from flowvae.data.batch import Source
from flowvae.models.priors.mixture_density import IsotropicMixture, isotropic_log_prob
from flowvae.models.priors.pseudo_inputs import check_guide
from flowvae.networks import Reference, eval_mode

__all__ = ["Exemplar", "ExemplarPrior"]

BLOCK = 1000  # training data encoded at a time
MOST_DATA = 2**24  # float32 represents smaller indices exactly


@dataclass(frozen=True)
class Exemplar(PriorSpec, name="exemplar"):
    """Parzen window over the encoder's means of the training data: p(z) = (1/N) Σ_n N(z; μ(x_n), σ² I).

    σ is learned; the means are those of the guide, a Gaussian or full-rank one, in evaluation mode. In training, the
    density of the code of x_i leaves out x_i (leave-one-out) and uses M random exemplars. The k nearest to each code of
    a batch of B are found among cached means and encoded again, with gradients; their sum divided by M is a lower
    bound. A step takes B k passes through the encoder and B M distances; if B k ≥ M, it takes M passes, and the sum is
    exact. The cache is recomputed after each epoch. In a second stage, where the encoder is fixed, only σ is fitted,
    without passes.

    In evaluation mode p(z) is the sum over all N exemplars, in blocks: N D operations per density. The model stores
    the N D means (N = 60,000, D = 40: 10 MB, in each of the two states of a checkpoint too), and training reads the
    data points of exemplars once more.

    `fit` tells the prior which data points are in a batch. In your own training loop, call `follow` in the same way:
    without it, p(z) is the sum over all exemplars in training mode too, with the means of the first call.

    Args:
        neighbours: k.
        exemplars: M, drawn for each step, at most N; none: all N.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Norouzi, Fleet & Norouzi (2020), "Exemplar VAE: Linking Generative Models, Nearest Neighbor Retrieval, and Data
        Augmentation".
    """

    title: ClassVar[str] = "Gaussians around the encoder's means of the training data"
    paper: ClassVar[str] = "Norouzi et al. 2020"
    conditional: ClassVar[bool] = False
    follows_guide: ClassVar[bool] = True

    neighbours: int = 10
    exemplars: int | None = None

    def __post_init__(self) -> None:
        check_int(self, "neighbours")
        if self.exemplars is not None:
            check_int(self, "exemplars", least=2)

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return ExemplarPrior(features, self.neighbours, self.exemplars)


class ExemplarPrior(LazyDistribution):
    """Exemplar prior (1/N) Σ_n N(z; μ(x_n), σ² I), leave-one-out and with nearest neighbours in training.

    Args:
        features: size of the code.
        neighbours: k.
        exemplars: M; None: all N.
    """

    means: Tensor
    numbers: Tensor

    def __init__(self, features: int, neighbours: int, exemplars: int | None) -> None:
        super().__init__()
        self.features = features
        self.neighbours = neighbours
        self.exemplars = exemplars
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("means", torch.zeros(0, features))
        # indices of the batch, in the first entries: captured steps need floating-point buffers of a fixed shape
        self.register_buffer("numbers", torch.zeros(0), persistent=False)
        self.batch = 0  # number of data points in the batch; 0: not known
        self.data: _Held | None = None
        self.stale = True  # whether the means must be computed before their first use

    def bind(self, guide: nn.Module, train: Tensor | Source) -> None:
        """Store references to the guide and to the training data, which are not part of the model's state.

        Raises:
            FlowvaeError: for a guide whose posteriors have no means or read a condition, and for too few or too many
                data.
        """
        check_guide("Exemplar", guide)
        count = len(train)
        if not 2 <= count <= MOST_DATA:
            raise FlowvaeError(f"Exemplar with {count} training data: must be 2 to {MOST_DATA}; use VampPrior().")
        self.guide = Reference(guide)
        self.data = _Held(train)
        self.means, self.numbers = torch.zeros(count, self.features), torch.zeros(count)
        try:
            self._encode(torch.arange(1))
        except NotImplementedError:
            raise FlowvaeError(
                "Exemplar with a guide whose posteriors have no means in closed form, such as a flow: use the guide "
                "gaussian or full-rank, or the prior VampPrior()."
            ) from None

    def follow(self, numbers: Tensor | None) -> None:
        """Set the indices (B,) of the training data points in the next step.

        None, before and after the steps of an epoch, recomputes the means of all training data; from then on, p(z) is
        the sum over all exemplars.
        """
        self.batch = 0 if numbers is None else len(numbers)
        if numbers is None:
            self._refresh()
        else:
            self.numbers[: self.batch] = numbers.to(self.numbers)

    def forward(self, c: Tensor | None = None) -> IsotropicMixture:
        if self.data is None:
            raise FlowvaeError("Exemplar: consists of the means of a guide; call bind(guide, train) first.")
        if self.stale:
            self._refresh()
        scale = self.log_scale.exp()
        if self.training and self.batch:
            return _LeaveOneOut(self, scale)
        return IsotropicMixture(self.means, scale)

    def encoded(self, index: Tensor) -> Tensor:
        """Compute the means of the exemplars with indices (U,), with gradients, shape (U, D)."""
        if any(parameter.requires_grad for parameter in self.guide().parameters()):
            return self._encode(index)
        return self.means[index]  # up to date, because the encoder is fixed

    def _encode(self, index: Tensor) -> Tensor:
        assert self.data is not None
        guide = self.guide()
        with eval_mode(guide):
            found: Tensor = guide.posterior(self.data.read(index, next(guide.parameters()).device)).mean
        return found

    @torch.no_grad()
    def _refresh(self) -> None:
        blocks = torch.arange(len(self.means)).split(BLOCK)
        self.means.copy_(torch.cat([self._encode(index) for index in blocks]))
        self.stale = False

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.stale &= f"{prefix}means" not in state_dict


class _LeaveOneOut(IsotropicMixture):
    """The prior in training: leave-one-out log-densities of the codes (..., B, D) of a known batch.

    Args:
        prior: the prior, with the indices of the batch set by `follow`.
        scale: σ.
    """

    def __init__(self, prior: ExemplarPrior, scale: Tensor) -> None:
        super().__init__(prior.means, scale)
        self.prior = prior

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute a lower bound of the log-density in nats; exact if all M exemplars are encoded.

        Raises:
            FlowvaeError: if the number of data points differs from that of the batch.
        """
        prior, own = self.prior, self.prior.numbers[: self.prior.batch]
        if value.shape[-2:-1] != own.shape:
            raise FlowvaeError(
                f"z: shape {tuple(value.shape)} in a training step on {len(own)} data points; score other codes in "
                "evaluation mode, or call follow(None) first."
            )
        z = value.reshape(-1, value.shape[-1])
        own = own.repeat(len(z) // len(own))
        total = len(prior.means)
        count = min(prior.exemplars or total, total)
        subset = torch.randperm(total, device=z.device)[:count]
        if len(z) * prior.neighbours < count:
            chosen, repeated = self._nearest(z, own, subset)
        else:
            chosen, repeated = subset, torch.zeros_like(subset, dtype=torch.bool)
        log_probs = isotropic_log_prob(z, prior.encoded(chosen), self.scale)
        excluded = repeated | (chosen == own[:, None])
        others = count - (subset == own[:, None]).sum(-1)
        log_prob = log_probs.masked_fill(excluded, -math.inf).logsumexp(-1) - others.log()
        return log_prob.reshape(value.shape[:-1])

    @torch.no_grad()
    def _nearest(self, z: Tensor, own: Tensor, subset: Tensor) -> tuple[Tensor, Tensor]:
        """Find the indices (B k,) of the k exemplars nearest to each code by cached means, and which are repeated."""
        distances = torch.cdist(z, self.centres[subset]).masked_fill(subset == own[:, None], math.inf)
        near = distances.topk(min(self.prior.neighbours, len(subset) - 1), largest=False).indices
        chosen = subset[near].flatten().sort().values
        return chosen, torch.cat((chosen.new_zeros(1, dtype=torch.bool), chosen[1:] == chosen[:-1]))


class _Held:
    """Reference to training data, which copies of a model share.

    Args:
        train: the data.
    """

    def __init__(self, train: Tensor | Source) -> None:
        self.train = train
        self.moved: tuple[torch.device, Tensor | Source] | None = None

    def read(self, index: Tensor, device: torch.device) -> Tensor:
        """Read the data points with these indices onto a device; data with a `to` method are moved as a whole, once."""
        if self.moved is None or self.moved[0] != device:
            move = getattr(self.train, "to", None)
            self.moved = (device, self.train if move is None else move(device))
        data = self.moved[1]
        return data[index.to(device)] if isinstance(data, Tensor) else data[index.cpu()].to(device)

    def __deepcopy__(self, memo: object) -> _Held:
        return self
