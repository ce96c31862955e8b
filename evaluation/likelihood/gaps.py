"""The inference gap, log p(x) − ELBO, split into approximation gap and amortization gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowvae.core.seeds import derive
from flowvae.data.batch import Batch
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.likelihood.ais import AIS, measure_ais
from flowvae.evaluation.likelihood.annealed_hmc import AnnealedHMC
from flowvae.evaluation.likelihood.elbo_and_nll import measure_likelihoods
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure
from flowvae.guides import AmortizedGuide
from flowvae.inference import refine

__all__ = ["Gaps", "measure_gaps"]


@dataclass(frozen=True)
class Gaps:
    """Log p(x) = ELBO + amortization gap + approximation gap, for N data points, in nats.

    Args:
        elbo: ELBO of the amortized guide, shape (N,).
        refined_elbo: ELBO of the same family refined for each data point, including the flow's parameters, shape (N,).
        evidence: log p(x) by annealed importance sampling.
        steps: number of refinement steps.
    """

    elbo: Tensor
    refined_elbo: Tensor
    evidence: AIS
    steps: int

    @property
    def approximation(self) -> Tensor:
        """Log p(x) − L[q*], due to the limits of the family, shape (N,)."""
        return self.evidence.log_evidence - self.refined_elbo

    @property
    def amortization(self) -> Tensor:
        """L[q*] − L[q], due to the limits of the encoder, shape (N,)."""
        return self.refined_elbo - self.elbo

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the split, with standard errors over its data.

        Args:
            split: name of the split.
            protocol: identity of the data, number of data points, seed; steps and the settings of AIS are added.
        """
        protocol = {**protocol, "refinement_steps": self.steps}
        common = "nats per datum", split, protocol
        return [
            mean_metric("inference_gap", self.approximation + self.amortization, *common, self.evidence.caution),
            mean_metric("approximation_gap", self.approximation, *common, self.evidence.caution),
            mean_metric("amortization_gap", self.amortization, *common),
            mean_metric("refined_elbo", self.refined_elbo, *common),
            *self.evidence.metrics(split, protocol),
        ]


def measure_gaps(
    model: Callable[..., Any],
    guide: AmortizedGuide,
    x: Tensor | Batch,
    *,
    steps: int = 500,
    draws: int = 1000,
    tempering: AnnealedHMC | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Gaps:
    """Split log p(x) − ELBO of each data point into approximation gap and amortization gap.

    The refinement must converge, since its remaining error counts as approximation gap: check that doubling `steps`
    does not change the gaps. The ELBOs of both guides use the same random numbers.

    Args:
        model: Pyro model with one latent site, in one plate of the data.
        guide: the amortized guide.
        x: data, shape (N, *event shape), or a batch with a condition.
        steps: refinement steps for each data point.
        draws: draws from each guide for its ELBO.
        tempering: settings of AIS, which estimates log p(x) from below.
        seed: random seed of all draws.
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


@measure("gaps", figures=("gaps",))
def _gaps(context: EvaluationContext) -> MeasureResult:
    """NLL by annealed importance sampling, approximation gap and amortization gap."""
    from flowvae.evaluation.figures.bound_plots import plot_gaps

    effort = context.effort
    x = context.batch(effort.rows)
    options = {"steps": effort.refinement, "tempering": effort.tempering, **context.options}
    result = measure_gaps(context.model, context.guide, x, **options)
    protocol = {**context.facts(x), **context.efforts}
    return MeasureResult(result.metrics(context.split, protocol), {"gaps": lambda: plot_gaps({"guide": result})})
