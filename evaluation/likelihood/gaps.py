"""Where the nats between log p(x) and the ELBO are lost: to the guide's family, or to its amortization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowvae.core.seeds import derive
from flowvae.evaluation.likelihood.ais import AIS, measure_ais
from flowvae.evaluation.likelihood.annealed_hmc import AnnealedHMC
from flowvae.evaluation.likelihood.elbo_and_nll import measure_likelihoods
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.guides import AmortizedGuide
from flowvae.inference import refine

__all__ = ["Gaps", "measure_gaps"]


@dataclass(frozen=True)
class Gaps:
    """Log p(x) = ELBO + amortization gap + approximation gap, for N data, in nats.

    Args:
        elbo: of the amortized guide, shape (N,).
        refined_elbo: of the same family refined for each datum, the flow's own parameters too, shape (N,).
        evidence: log p(x) by annealed importance sampling.
        steps: of the refinement.
    """

    elbo: Tensor
    refined_elbo: Tensor
    evidence: AIS
    steps: int

    @property
    def approximation(self) -> Tensor:
        """Log p(x) − L[q*]: what the family cannot do, shape (N,)."""
        return self.evidence.log_evidence - self.refined_elbo

    @property
    def amortization(self) -> Tensor:
        """L[q*] − L[q]: what the encoder has not found for this datum, shape (N,)."""
        return self.refined_elbo - self.elbo

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """The split's means, with standard errors over its data.

        Args:
            split: name of the split.
            protocol: identity of the data, how many of them, seed; steps and the settings of AIS are added.
        """
        protocol = {**protocol, "refinement_steps": self.steps}
        how = "nats per datum", split, protocol
        return [
            mean_metric("inference_gap", self.approximation + self.amortization, *how, self.evidence.caution),
            mean_metric("approximation_gap", self.approximation, *how, self.evidence.caution),
            mean_metric("amortization_gap", self.amortization, *how),
            mean_metric("refined_elbo", self.refined_elbo, *how),
            *self.evidence.metrics(split, protocol),
        ]


def measure_gaps(
    model: Callable[..., Any],
    guide: AmortizedGuide,
    x: Tensor,
    *,
    steps: int = 500,
    draws: int = 1000,
    tempering: AnnealedHMC | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Gaps:
    """Split each datum's distance from ELBO to log p(x) into its two parts.

    The refined guide has to converge: what it leaves undone counts as approximation gap, so double `steps` and see
    whether the parts move. The ELBOs of both guides use the same random numbers.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        guide: the amortized guide.
        x: data, shape (N, D).
        steps: of the refinement of each datum.
        draws: from each guide for its ELBO.
        tempering: settings of AIS, which estimates log p(x) from below.
        seed: decides all draws.
        progress: whether to show progress bars.

    References:
        Cremer, Li & Duvenaud (2018), "Inference Suboptimality in Variational Autoencoders".
    """
    refined = refine(model, guide, x, steps=steps, seed=derive(seed, "refinement"), progress=progress)
    elbo, best = (
        measure_likelihoods(model, each, x, draws, derive(seed, "elbo"), progress=progress).elbo
        for each in (guide, refined)
    )
    evidence = measure_ais(model, refined, x, tempering, derive(seed, "evidence"), progress)
    return Gaps(elbo, best, evidence, steps)
