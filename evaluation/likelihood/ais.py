"""Annealed importance sampling: log-likelihood estimates that do not rely on a good guide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data.batch import Batch
from flowvae.evaluation.likelihood.annealed_hmc import PILOTS, AnnealedHMC, AnnealingPath, schedule, sweep
from flowvae.evaluation.likelihood.elbo_and_nll import TOLERATED
from flowvae.evaluation.likelihood.importance_weights import ROWS, check_data, log_mean
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.networks import in_eval_mode

__all__ = ["AIS", "measure_ais"]

LARGEST_ERROR = 0.3  # nats, the largest standard error that is reliable


@dataclass(frozen=True)
class AIS:
    """Estimates of log p(x) for N data points, in nats.

    The mean weight is unbiased for p(x) for any number of chains and temperatures. So in expectation its logarithm is a
    lower bound of log p(x), too low by about half the squared standard error.

    Args:
        log_weight: log w of each chain, float64, shape (chains, N).
        acceptance: mean acceptance probability of HMC, from 0 to 1, shape (N,).
        settings: settings of the chains.
    """

    log_weight: Tensor
    acceptance: Tensor
    settings: AnnealedHMC

    @property
    def log_evidence(self) -> Tensor:
        """Log mean w, shape (N,)."""
        return log_mean(self.log_weight)[0]

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `log_evidence` over the chains, by the delta method, in nats, shape (N,).

        It is reliable below about 0.3. Weights are skewed: at larger values the true log p(x) lies above the interval
        more often than below. At the largest possible value, 1, one chain has all the weight and the estimate is
        meaningless.
        """
        return (log_mean(self.log_weight)[1] / (len(self.log_weight) - 1)).sqrt()

    @property
    def effective_chains(self) -> Tensor:
        """(Σ w)² / Σ w², at most the number of chains, shape (N,)."""
        return len(self.log_weight) / (1 + log_mean(self.log_weight)[1])

    @property
    def caution(self) -> str | None:
        """Why the mean of `log_evidence` is unreliable; None if it is reliable."""
        share = (self.standard_error > LARGEST_ERROR).double().mean().item()
        if share <= TOLERATED:
            return None
        return f"not to be trusted: standard error of the chains above {LARGEST_ERROR} nats for {share:.0%} of the data"

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the split.

        The standard error of "nll_ais" is over the data and includes that of the chains. "nll_ais_error" is the part
        of the chains alone, the variation between seeds.

        Args:
            split: name of the split.
            protocol: identity of the data, number of data points, seed; the settings of the chains are added.
        """
        protocol = {**protocol, "ais": asdict(self.settings)}
        data = len(self.acceptance)
        nll, effective = -self.log_evidence, self.effective_chains
        error = self.standard_error.square().sum().sqrt().item() / data
        metrics = [
            mean_metric("nll_ais", nll, "nats per datum", split, protocol, self.caution),
            Metric("nll_ais_error", error, None, "nats per datum", split, protocol),
            mean_metric("ais_effective_chains", effective, "chains", split, protocol),
        ]
        if self.settings.temperatures > 1:  # with one temperature there is no transition
            metrics.append(mean_metric("ais_acceptance", self.acceptance, "share of HMC proposals", split, protocol))
        return metrics


@in_eval_mode
def measure_ais(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Batch,
    settings: AnnealedHMC | None = None,
    seed: int = 0,
    progress: bool = False,
) -> AIS:
    """Estimate log p(x) of each data point by annealed importance sampling with Hamiltonian moves.

    The guide only sets the start and the scale of the moves: a poor guide costs precision but does not favour its
    model. The cost is (temperatures · leapfrog) gradients of log p(x, z) for each of chains + 4 codes per data point,
    so use a subset of the data, the same one for all models that are compared. Log-weights are summed in float64. The
    log-densities are in float32: one of −1000 nats is rounded to 1e-4 nats, and so is the sum, since the steps of β add
    up to 1.

    Args:
        model: Pyro model with any latent sites on all of R^n, in one plate of the data.
        guide: Pyro guide with the same sites.
        x: data, shape (N, *event shape), or a batch with a condition.
        settings: settings of the chains.
        seed: random seed of the chains; each block of 64 data points has its own random numbers.
        progress: whether to show a progress bar, and a warning before long work.

    Raises:
        FlowvaeError: if draws of the guide are not finite, densities of the model are NaN, data have another shape or
            type, a latent site is not on all of R^n, or its log-density is not one number per data point.

    References:
        Neal (2001), "Annealed importance sampling"; Wu et al. (2017), "On the quantitative analysis of
        decoder-based generative models".
    """
    batch = check_data(guide, x)
    settings = settings or AnnealedHMC()
    betas = schedule(settings.temperatures)
    weights, acceptance = [], []
    total, desc = math.ceil(len(batch) / ROWS) * settings.temperatures, f"AIS, {settings.chains} chains per data point"
    with bar(desc, "temperature", total, progress=progress, announce=True) as work:
        for number, block in enumerate(batch.split(ROWS)):
            with seeded(derive(seed, "ais", number)), pyro.validation_enabled(False):
                path = AnnealingPath(model, guide, block, settings.start)
                codes = path.draw(PILOTS + settings.chains)
                result = sweep(path, codes, betas, settings.leapfrog, tick=work.update)
            weights.append(result.log_weight.cpu())
            acceptance.append(result.acceptance.cpu())
    return AIS(torch.cat(weights, 1), torch.cat(acceptance), settings)
