"""Annealed importance sampling: the likelihood of data under a model, whatever the guide is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.likelihood.annealed_hmc import PILOTS, AnnealedHMC, AnnealingPath, schedule, sweep
from flowvae.evaluation.likelihood.elbo_and_nll import TOLERATED
from flowvae.evaluation.likelihood.importance_weights import ROWS, check_data, log_mean
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.progress import Bar
from flowvae.networks import in_eval_mode

__all__ = ["AIS", "measure_ais"]

LARGEST_ERROR = 0.3  # nats, of the standard error that can be trusted


@dataclass(frozen=True)
class AIS:
    """Estimates of log p(x) for N data, in nats.

    The mean of the weights is unbiased for p(x) at any number of chains and temperatures, so its logarithm is
    in expectation a lower bound of log p(x), too low by about half the squared standard error.

    Args:
        log_weight: log w of each chain, float64, shape (chains, N).
        acceptance: mean acceptance probability of HMC, of 1, shape (N,).
        settings: what made them.
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
        """Of `log_evidence` over the chains, by the delta method, in nats, shape (N,).

        Trust it where it is below about 0.3. Weights are skewed: where it is larger, the truth lies more often
        above the interval than below it, and a standard error near its largest value, 1, means that one chain has
        all the weight and that nothing is known.
        """
        return (log_mean(self.log_weight)[1] / (len(self.log_weight) - 1)).sqrt()

    @property
    def effective_chains(self) -> Tensor:
        """(Σ w)² / Σ w², of the number of chains, shape (N,)."""
        return len(self.log_weight) / (1 + log_mean(self.log_weight)[1])

    @property
    def caution(self) -> str | None:
        """Why the mean of `log_evidence` is not to be trusted; None where it is."""
        share = (self.standard_error > LARGEST_ERROR).double().mean().item()
        if share <= TOLERATED:
            return None
        return f"not to be trusted: standard error of the chains above {LARGEST_ERROR} nats for {share:.0%} of the data"

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """The split's means.

        "nll_ais" has the standard error over the data, which contains that of the chains. "nll_ais_error" is the
        part of the chains alone: what another seed would change.

        Args:
            split: name of the split.
            protocol: identity of the data, how many of them, seed; the settings of the chains are added.
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
        if self.settings.temperatures > 1:  # one has no transition to accept
            metrics.append(mean_metric("ais_acceptance", self.acceptance, "share of HMC proposals", split, protocol))
        return metrics


@in_eval_mode
def measure_ais(
    model: Callable[..., Any],
    guide: Any,
    x: Tensor,
    settings: AnnealedHMC | None = None,
    seed: int = 0,
    progress: bool = False,
) -> AIS:
    """Estimate log p(x) of each datum by annealed importance sampling with Hamiltonian transitions.

    The guide only says where to start and on which scale to move: a poor one costs precision and does not favour its
    arm. It costs (temperatures · leapfrog) gradients of log p(x, z) for each of chains + 4 codes a datum, so take a
    subset of the data, the same one for every arm. Log-weights add up in float64; in float32 a single log-density
    of −1000 nats is rounded to 1e-4 nats, and so is their sum, since the steps of β add up to 1.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        guide: has `posterior(x)`, a Pyro distribution.
        x: data, shape (N, D).
        settings: of the chains.
        seed: decides them; random numbers belong to blocks of 64 data.
        progress: whether to show a progress bar, and how long it takes where that is long.

    Raises:
        FlowvaeError: if draws of the guide are not finite, densities of the model are NaN, or data do not fit.

    References:
        Neal (2001), "Annealed importance sampling"; Wu et al. (2017), "On the quantitative analysis of
        decoder-based generative models".
    """
    check_data(guide, x)
    settings = settings or AnnealedHMC()
    betas = schedule(settings.temperatures)
    weights, acceptance = [], []
    blocks = x.split(ROWS)
    total, desc = len(blocks) * settings.temperatures, f"AIS, {settings.chains} chains a datum"
    with Bar(total, desc, "temperature", progress) as bar:
        for number, block in enumerate(blocks):
            with seeded(derive(seed, "ais", number)), pyro.validation_enabled(False):
                path = AnnealingPath(model, guide, block, settings.start)
                codes = path.draw(PILOTS + settings.chains)
                result = sweep(path, codes, betas, settings.leapfrog, tick=bar.update)
            weights.append(result.log_weight.cpu())
            acceptance.append(result.acceptance.cpu())
    return AIS(torch.cat(weights, 1), torch.cat(acceptance), settings)
