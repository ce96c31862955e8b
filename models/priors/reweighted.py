"""Priors that are known up to a constant, p(z) = u(z)/Z, with a proposal distribution."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from zuko.lazy import LazyDistribution

from flowvae.core.errors import EstimatedDensityWarning, FlowvaeError, check_choice, check_int, check_number
from flowvae.core.parts import PriorSpec
from flowvae.models.priors.importance_resampling import importance_resampling
from flowvae.models.priors.langevin import langevin
from flowvae.models.priors.log_constant import TRUSTED, LogConstant, log_constant
from flowvae.networks import in_eval_mode

__all__ = ["Reweighted", "ReweightedPrior", "ReweightedSpec"]

CHUNK = 2**14  # proposals in memory at a time
ENOUGH = 10  # effective proposals for each draw


@dataclass(frozen=True)
class ReweightedSpec(PriorSpec):
    """Settings of a prior p(z) = u(z)/Z that is known up to its constant.

    Args:
        draws: "sir" (sampling importance resampling), which needs many effective proposals for each draw, or "langevin"
            (the same, followed by a Langevin chain for each draw, which corrects most of the error of too few).
        proposals: M, proposals for each draw.
        steps: length of a Langevin chain.
        step_size: step size h of the chain, in units of z.
        constant_draws: proposals for log Z, which is estimated at the end of every epoch.

    Raises:
        FlowvaeError: for settings out of range.
    """

    conditional: ClassVar[bool] = False  # each condition would have its own constant
    methods: ClassVar[tuple[str, ...]] = ("sir", "langevin")

    draws: str = "langevin"
    proposals: int = 256
    steps: int = 100
    step_size: float = 0.5
    constant_draws: int = 32768

    def __post_init__(self) -> None:
        check_choice(self, "draws", self.methods)
        for name in ("proposals", "constant_draws"):
            check_int(self, name, least=2, most=2**24)
        check_int(self, "steps", most=10**6)
        check_number(self, "step_size")


class Reweighted(LazyDistribution):
    """Base class of priors p(z) = u(z)/Z, with log Z by importance sampling from a proposal g.

    log Z and its effective draws are buffers, which `validate` and `estimate` set: a second stage keeps those of its
    best epoch.

    Args:
        spec: settings of the draws and of the constant.
        features: D, the size of a code.
    """

    log_z: Tensor
    effective_draws: Tensor

    def __init__(self, spec: ReweightedSpec, features: int) -> None:
        super().__init__()
        self.spec = spec
        self.features = features
        self.register_buffer("log_z", torch.zeros(()))
        self.register_buffer("effective_draws", torch.zeros(()))
        self._constant: LogConstant | None = None  # the buffers as Python numbers, outside of compiled programs

    @abstractmethod
    def log_unnormalized(self, z: Tensor) -> Tensor:
        """Compute log u(z) in nats of codes (..., D), shape (...)."""

    @abstractmethod
    def propose(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw proposals z ~ g, shape (count, D), with log u(z) − log g(z) in nats, shape (count,)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute log p(z) in nats of codes (..., D), shape (...).

        Raises:
            FlowvaeError: if log Z has not been estimated.
        """
        if self._constant is None:
            raise FlowvaeError(
                f"log p(z) of the prior {self.spec.family}: its constant Z is not known yet; fit the prior in a second "
                "stage, or call estimate()."
            )
        return self.log_unnormalized(z) - self.log_z.to(z.dtype)

    @torch.no_grad()
    @in_eval_mode
    def estimate(self) -> LogConstant:
        """Estimate log Z from `constant_draws` new proposals, and store it."""
        sizes = [min(CHUNK, self.spec.constant_draws - start) for start in range(0, self.spec.constant_draws, CHUNK)]
        found = log_constant(torch.cat([self.propose(size)[1] for size in sizes]))
        self.log_z.fill_(found.value)
        self.effective_draws.fill_(found.effective_draws)
        self._constant = found
        return found

    @torch.no_grad()
    def validate(self, codes: Tensor) -> Tensor:
        """Estimate log Z and return the mean of −log p over codes (N, D), in nats per code.

        The result is infinite if the constant cannot be trusted, because such an epoch would look better than it is.
        log Z is then estimated again, because the estimate that selects the best epoch is biased low.

        Warns:
            EstimatedDensityWarning: if the constant cannot be trusted.
        """
        found = self.estimate()
        loss = -torch.cat([self.log_prob(part) for part in codes.split(CHUNK)]).mean()
        self.estimate()
        if found.trusted:
            return loss
        warnings.warn(
            f"prior {self.spec.family}: an epoch whose log Z rests on fewer than {TRUSTED} effective draws, of "
            f"constant_draws = {found.draws}, is not kept; use more of them, or a base or sampler closer to the codes.",
            EstimatedDensityWarning,
            stacklevel=2,
        )
        return codes.new_tensor(math.inf)

    def facts(self) -> dict[str, Any]:
        """Return the method of the draws, and log Z in nats, whose standard error is common to all log-densities."""
        found = self._constant
        log_z = {} if found is None else {f"log_z_{name}": value for name, value in found._asdict().items()}
        return {"draws": self.spec.draws, **log_z}

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        """Draw new, independent codes by the method of the settings, shape (count, D)."""
        z = importance_resampling(self.propose, count, self.spec.proposals)
        if self.spec.draws != "langevin":
            self._warn_of_few_proposals()
            return z
        moved = (langevin(self.log_unnormalized, part, self.spec.steps, self.spec.step_size) for part in z.split(CHUNK))
        return torch.cat(list(moved))

    def _warn_of_few_proposals(self) -> None:
        """Warn if the draws have too few effective proposals to follow the prior's density."""
        found = self._constant
        effective = math.inf if found is None else self.spec.proposals * found.effective_draws / found.draws
        if effective < ENOUGH:
            warnings.warn(
                f"draws of the prior {self.spec.family}: each is chosen from {effective:.1f} effective of "
                f"{self.spec.proposals} proposals, too few for the prior's density; use more proposals, for {ENOUGH} "
                "effective ones, or draws langevin.",
                EstimatedDensityWarning,
                stacklevel=3,
            )

    def forward(self, c: Tensor | None = None) -> ReweightedPrior:
        found = self._constant
        if found is not None and not found.trusted and not self.training:
            warnings.warn(
                f"prior {self.spec.family}: log Z = {found.value:.2f} rests on {found.effective_draws:.0f} effective "
                f"draws of {found.draws}, so its standard error ({found.standard_error:.2f} nats) and every log-"
                "density are unreliable; use more constant_draws, or a base or sampler closer to the codes.",
                EstimatedDensityWarning,
                stacklevel=2,
            )
        return ReweightedPrior(self)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        n, effective = self.spec.constant_draws, self.effective_draws.item()
        if effective > 0:
            error = math.sqrt(max(0.0, 1 / effective - 1 / n))
            self._constant = LogConstant(self.log_z.item(), error, effective, n)
        else:
            self._constant = None


class ReweightedPrior(TorchDistribution):
    """Distribution p(z) = u(z)/Z with an estimated constant, and draws without a gradient.

    Args:
        prior: the module.
        batch_shape: shape of the batch.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, prior: Reweighted, batch_shape: Size = Size()) -> None:  # noqa: B008
        self.prior = prior
        super().__init__(batch_shape, Size((prior.features,)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density in nats, (..., D) → (...)."""
        return self.prior.log_prob(value)

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw codes of shape sample_shape + batch shape + (D,), without a gradient."""
        shape = self._extended_shape(Size(sample_shape))
        return self.prior.draw(math.prod(shape[:-1])).reshape(shape)

    def expand(self, batch_shape: Any, _instance: object = None) -> ReweightedPrior:
        """Expand the batch shape."""
        return ReweightedPrior(self.prior, Size(batch_shape))
