"""Measures with units and protocols, the ArviZ export, and figures."""

from flowvae.evaluation.arviz_export import pareto_k, to_arviz
from flowvae.evaluation.exact import exact_metrics
from flowvae.evaluation.likelihood import Likelihoods, likelihood_metrics, measure_likelihoods
from flowvae.evaluation.metrics import Metric, read_metrics, write_metrics
from flowvae.evaluation.plots import (
    draw_figures,
    plot_history,
    plot_latent,
    plot_priors,
    plot_reconstructions,
    plot_samples,
)
from flowvae.evaluation.weights import Draws, importance_draws

__all__ = [
    "Draws",
    "Likelihoods",
    "Metric",
    "draw_figures",
    "exact_metrics",
    "importance_draws",
    "likelihood_metrics",
    "measure_likelihoods",
    "pareto_k",
    "plot_history",
    "plot_latent",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "read_metrics",
    "to_arviz",
    "write_metrics",
]
