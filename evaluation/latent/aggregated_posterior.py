"""The aggregated posterior q̄(z) = (1/N) Σ_n q(z | x_n) of a data set: its log-density, draws and cost."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
from flowvae.core.memory import check_memory
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.likelihood.importance_weights import ROWS, check_data
from flowvae.networks import eval_mode, in_eval_mode

__all__ = [
    "CHUNK",
    "PATIENCE",
    "AggregatedPosterior",
    "ForeignCost",
    "WithPosterior",
    "WithPrior",
    "code_densities",
    "draw_codes",
    "log_prior",
]

CHUNK = 2**16  # densities in memory at a time
PATIENCE = 60.0  # seconds of estimated work above which a warning states the cost
DATA = 256  # data points whose posteriors are in memory at a time


class WithPrior(Protocol):
    """A model with a method `prior`, such as `VAE`."""

    def prior(self) -> Any:
        """p(z), a distribution with event shape (latent,)."""


class WithPosterior(Protocol):
    """A guide with a method `posterior`, which scores any code, such as `AmortizedGuide`."""

    def posterior(self, x: Tensor) -> Any:
        """q(z | x) for data (N, D), batch shape (N,) and event shape (latent,)."""


@torch.no_grad()
@in_eval_mode
def draw_codes(guide: WithPosterior, x: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw codes z ~ q(z | x_n), shape (S, N, latent), with their log q(z | x_n) in nats, shape (S, N).

    Each block of data points has its own random numbers, so the codes of a block do not depend on later blocks.

    Raises:
        FlowvaeError: for fewer than one draw or more than fit into memory, or data of another shape or type.
    """
    check_data(guide, x)
    if draws < 1:
        raise FlowvaeError(f"draws = {draws}: must be 1 or more.")
    codes, densities = [], []
    for number, block in enumerate(x.split(ROWS)):
        with seeded(derive(seed, "codes", number)), pyro.validation_enabled(False):
            posterior = guide.posterior(block)
            check_memory(f"draws = {draws}", draws * len(x) * posterior.event_shape.numel() * x.itemsize, "use fewer")
            codes.append(posterior.sample((draws,)))
            densities.append(posterior.log_prob(codes[-1]))
    return torch.cat(codes, 1), torch.cat(densities, 1)


@dataclass(frozen=True)
class ForeignCost:
    """Cost of scoring codes under the posteriors of other data points.

    Args:
        densities: number of densities, codes times data points.
        passes: largest number of runs of a layer of the guide per density; 1 is cheap, an IAF needs one per
            dimension.
        seconds: estimated duration of all densities, from a trial.
    """

    densities: int
    passes: int
    seconds: float


class AggregatedPosterior:
    """The aggregated posterior: the mixture of the posteriors of N data points with equal weights.

    Its log-density sums over all N posteriors. Memory stays bounded, and up to rounding the result does not depend on
    the chunk size. A warning states the cost beforehand if the guide is slow in this direction.

    Args:
        guide: guide with a method `posterior(x)`.
        x: data, shape (N, D).
        chunk: densities in memory at a time.
        patience: seconds of estimated work from which `log_prob` warns; math.inf for never.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for data without rows, data of another shape or type, or a chunk below 1.

    References:
        Makhzani et al. (2016), "Adversarial Autoencoders"; Hoffman & Johnson (2016), "ELBO surgery".
    """

    def __init__(
        self,
        guide: WithPosterior,
        x: Tensor,
        chunk: int = CHUNK,
        patience: float = PATIENCE,
        progress: bool = False,
    ) -> None:
        check_data(guide, x)
        if chunk < 1:
            raise FlowvaeError(f"chunk = {chunk}: must be 1 or more densities in memory at a time.")
        self.guide = guide
        self.x = x
        self.chunk = chunk
        self.patience = patience
        self.progress = progress

    @torch.no_grad()
    def log_prob(self, z: Tensor, without: Tensor | None = None) -> Tensor:
        """Compute log q̄(z) in nats of codes (M, latent), shape (M,), float64.

        Args:
            z: the codes.
            without: for each code the index of a data point to leave out of the mixture, shape (M,). Use it for codes
                of these same data, since the posterior that drew a code raises its density.

        Raises:
            FlowvaeError: if the only data point is left out.
        """
        terms = len(self.x) - (without is not None)
        if terms < 1:
            raise FlowvaeError("x has one data point and it is left out: leave-one-out needs 2 or more.")
        self._warn_if_slow(len(z))
        rows = min(DATA, self.chunk)
        size = max(1, self.chunk // rows)
        blocks = math.ceil(len(self.x) / rows) * math.ceil(len(z) / size)
        total = torch.full((len(z),), -math.inf, dtype=torch.float64, device=z.device)
        with (
            bar("aggregated posterior", "block", blocks, progress=self.progress) as shown,
            eval_mode(self.guide),
            pyro.validation_enabled(False),
        ):
            for first in range(0, len(self.x), rows):
                block = self.x[first : first + rows]
                posterior = self.guide.posterior(block)
                number = torch.arange(first, first + len(block), device=z.device)
                for start in range(0, len(z), size):
                    part = slice(start, start + size)
                    density = _foreign(posterior, z[part], len(block))
                    if without is not None:
                        density = density.masked_fill(without[part].unsqueeze(1) == number, -math.inf)
                    total[part] = torch.logaddexp(total[part], density.logsumexp(1))
                    shown.update()
        return total - math.log(terms)

    def sample(self, size: int, seed: int) -> Tensor:
        """Draw independent codes z ~ q̄, shape (size, latent): a random data point, then a draw from its posterior."""
        generator = torch.Generator().manual_seed(derive(seed, "data"))
        chosen = torch.randint(len(self.x), (size,), generator=generator)
        return draw_codes(self.guide, self.x[chosen.to(self.x.device)], 1, derive(seed, "mixture"))[0][0]

    @torch.no_grad()
    def cost(self, codes: int) -> ForeignCost:
        """Estimate the cost of `log_prob` for a number of codes, from a trial of at most one chunk."""
        block = self.x[: min(DATA, self.chunk)]
        trial = min(codes, max(1, self.chunk // len(block)))
        z = self.sample(trial, 0)
        layers = self.guide.modules() if isinstance(self.guide, nn.Module) else ()
        calls: dict[nn.Module, int] = {}

        def count(layer: nn.Module, *_: Any) -> None:
            calls[layer] = calls.get(layer, 0) + 1

        hooks = [layer.register_forward_hook(count) for layer in layers if not list(layer.children())]
        try:
            with eval_mode(self.guide), pyro.validation_enabled(False):
                posterior = self.guide.posterior(block)
                began = time.perf_counter()
                _foreign(posterior, z, len(block)).sum().item()  # item() waits for the accelerator
                seconds = time.perf_counter() - began
        finally:
            for hook in hooks:
                hook.remove()
        densities = codes * len(self.x)
        return ForeignCost(densities, max(calls.values(), default=1), seconds * densities / (trial * len(block)))

    def _warn_if_slow(self, codes: int) -> None:
        if codes * len(self.x) <= self.chunk or self.patience == math.inf:
            return
        cost = self.cost(codes)
        if cost.seconds > self.patience:
            warnings.warn(
                f"{codes} codes under the posteriors of {len(self.x)} data: {cost.densities:.2g} foreign densities, "
                f"{cost.passes} passes of the guide's networks for each, about {cost.seconds:.0f} s. Use fewer data "
                "or draws; patience=math.inf silences this warning.",
                SlowDirectionWarning,
                stacklevel=3,
            )


@torch.no_grad()
def code_densities(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    draws: int,
    seed: int,
    progress: bool,
    chunk: int,
    patience: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log q(z | x_n), log q̄(z) without x_n, and log p(z) for S codes of each of N data points.

    In nats, each of shape (S, N), float64.

    Raises:
        FlowvaeError: for fewer than two data points or one draw.
    """
    if len(x) < 2:
        raise FlowvaeError(f"x has {len(x)} data: leave-one-out needs 2 or more.")
    codes, log_own = draw_codes(guide, x, draws, seed)
    aggregated = AggregatedPosterior(guide, x, chunk, patience, progress)
    own = torch.arange(len(x), device=x.device).repeat(draws)
    log_others = aggregated.log_prob(codes.flatten(0, 1), without=own).reshape(log_own.shape)
    return log_own.double(), log_others, log_prior(model, codes)


@torch.no_grad()
@in_eval_mode
def log_prior(model: WithPrior, codes: Tensor) -> Tensor:
    """Compute log p(z) in nats of codes (S, N, latent), shape (S, N), float64."""
    prior = model.prior()
    parts = [prior.log_prob(part) for part in codes.flatten(0, 1).split(4096)]
    return torch.cat(parts).double().reshape(codes.shape[:2])


def _foreign(posterior: Any, z: Tensor, data: int) -> Tensor:
    """Compute log q(z_m | x_n) of codes (M, latent) under a block of posteriors, shape (M, data), float64."""
    # one copy per data point: some flows do not broadcast a code over contexts and would silently score it wrongly
    return posterior.log_prob(z.unsqueeze(1).repeat(1, data, 1)).double()
