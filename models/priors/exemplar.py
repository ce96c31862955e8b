"""Exemplar prior: a Parzen window over the codes of the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int, shown
from flowvae.core.parts import PriorSpec
from flowvae.data.batch import Source
from flowvae.models.priors.mixture_density import IsotropicMixture, isotropic_log_prob
from flowvae.models.priors.pseudo_inputs import check_guide
from flowvae.networks import Reference, eval_mode

__all__ = ["Exemplar", "ExemplarPrior"]

BLOCK = 1000  # training data encoded at a time
MOST_DATA = 2**24  # numbers of data points that float32 represents


@dataclass(frozen=True)
class Exemplar(PriorSpec, name="exemplar"):
    """Parzen window over the encoder's means of the training data: p(z) = (1/N) Σ_n N(z; μ(x_n), σ² I).

    σ is learned; the means are those of the guide, a Gaussian or full-rank one, in evaluation mode. In training, the
    code of x_i is scored without x_i (leave-one-out), against M random exemplars. The k nearest to each code of a batch
    of B are found among cached means and encoded again, with gradients; their sum over M is a lower bound. A step takes
    B k passes through the encoder and B M distances; where B k ≥ M, it takes M passes, and the sum is exact. The cache
    is computed anew after each epoch. In a second stage, where the encoder is fixed, only σ is fitted, without passes.

    In evaluation mode p(z) is the sum over all N exemplars, in blocks: N D operations per density. The model stores
    the N D means (N = 60,000, D = 40: 10 MB, in each of the two states of a checkpoint too), and training reads the
    data points of exemplars once more.

    `fit` says which data points are in a batch. In a loop of your own, call `follow` as it does: without it, p(z) is
    the sum over all exemplars in training mode too, with the means of the first call.

    Args:
        neighbours: k.
        exemplars: M, drawn for each step, at most N; none: all N.

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
    """(1/N) Σ_n N(z; μ(x_n), σ² I), leave-one-out and with nearest neighbours in training.

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
        # numbers of the batch, in its first places: programs of captured steps take real buffers of one shape as inputs
        self.register_buffer("numbers", torch.zeros(0), persistent=False)
        self.batch = 0  # data points of the batch; 0: not known
        self.data: _Held | None = None
        self.stale = True  # whether the means have to be computed before their first use

    def bind(self, guide: nn.Module, train: Tensor | Source) -> None:
        """Refer to the guide and to the training data, which are not part of the model's state.

        Raises:
            FlowvaeError: for a guide whose posteriors have no means or read a condition, and for too few or too many
                data.
        """
        check_guide("Exemplar", guide)
        count = len(train)
        if not 2 <= count < MOST_DATA:
            raise FlowvaeError(f"Exemplar with {count} training data: must be 2 to {MOST_DATA}; use VampPrior().")
        self.guide = Reference(guide)
        self.data = _Held(train)
        self.means, self.numbers = torch.zeros(count, self.features), torch.zeros(count)
        try:
            self._encode(torch.arange(1))
        except NotImplementedError:
            raise FlowvaeError(
                f"Exemplar with the guide {shown(type(guide.head).__name__)}: its posteriors have no means in closed "
                "form; use the guide gaussian or full-rank, or VampPrior()."
            ) from None

    def follow(self, numbers: Tensor | None) -> None:
        """Take the numbers (B,) of the training data whose codes are scored next.

        None, before and after the steps of an epoch, computes the means of all training data again; from then on, p(z)
        has all exemplars.
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
        """Means of the exemplars of these numbers (U,), with gradients, shape (U, D)."""
        if any(parameter.requires_grad for parameter in self.guide().parameters()):
            return self._encode(index)
        return self.means[index]  # the encoder has not changed since

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
    """The prior as training sees it: log-densities of codes (..., B, D) of a known batch without its data points.

    Args:
        prior: with the numbers of the batch.
        scale: σ.
    """

    def __init__(self, prior: ExemplarPrior, scale: Tensor) -> None:
        super().__init__(prior.means, scale)
        self.prior = prior

    def log_prob(self, value: Tensor) -> Tensor:
        """Lower bound of the log-density in nats; exact where all M exemplars are encoded.

        Raises:
            FlowvaeError: for codes of another number of data points than the batch.
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
        """Numbers (B k,) of the k exemplars nearest to each code by their cached means, and which of them repeat."""
        distances = torch.cdist(z, self.centres[subset]).masked_fill(subset == own[:, None], math.inf)
        near = distances.topk(min(self.prior.neighbours, len(subset) - 1), largest=False).indices
        chosen = subset[near].flatten().sort().values
        return chosen, torch.cat((chosen.new_zeros(1, dtype=torch.bool), chosen[1:] == chosen[:-1]))


class _Held:
    """Training data of which a model has no copy; copies of the model share them.

    Args:
        train: the data.
    """

    def __init__(self, train: Tensor | Source) -> None:
        self.train = train
        self.moved: tuple[torch.device, Tensor | Source] | None = None

    def read(self, index: Tensor, device: torch.device) -> Tensor:
        """Read the data points of these numbers, on a device; data that can move there as a whole do so once."""
        if self.moved is None or self.moved[0] != device:
            move = getattr(self.train, "to", None)
            self.moved = (device, self.train if move is None else move(device))
        data = self.moved[1]
        return data[index.to(device)] if isinstance(data, Tensor) else data[index.cpu()].to(device)

    def __deepcopy__(self, memo: object) -> _Held:
        return self
