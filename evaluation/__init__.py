"""Measures with units and protocols, the ArviZ export, and figures."""

from flowvae.evaluation.arviz_export import pareto_k, to_arviz
from flowvae.evaluation.bits_per_dim import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.evaluation.exact import exact_metrics
from flowvae.evaluation.flow_plots import (
    interpolate,
    plot_density,
    plot_flow_samples,
    plot_interpolation,
    plot_steps,
)
from flowvae.evaluation.guide_draws import GuideDraws, guide_draws
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
from flowvae.evaluation.posterior_plots import plot_funnel
from flowvae.evaluation.weights import Draws, importance_draws

__all__ = [
    "Draws",
    "FlowLikelihoods",
    "GuideDraws",
    "Likelihoods",
    "Metric",
    "draw_figures",
    "exact_metrics",
    "flow_metrics",
    "guide_draws",
    "importance_draws",
    "interpolate",
    "likelihood_metrics",
    "measure_flow",
    "measure_likelihoods",
    "pareto_k",
    "plot_density",
    "plot_flow_samples",
    "plot_funnel",
    "plot_history",
    "plot_interpolation",
    "plot_latent",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "plot_steps",
    "read_metrics",
    "to_arviz",
    "write_metrics",
]
