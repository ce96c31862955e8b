"""Measures with units and protocols, the ArviZ export, and figures."""

from flowvae.evaluation.ais import AIS, measure_ais
from flowvae.evaluation.arviz_export import pareto_k, to_arviz
from flowvae.evaluation.bdmc import BDMC, measure_bdmc
from flowvae.evaluation.bits_per_dim import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.evaluation.bound_plots import plot_bounds
from flowvae.evaluation.exact import exact_metrics
from flowvae.evaluation.flow_plots import (
    interpolate,
    plot_density,
    plot_flow_samples,
    plot_interpolation,
    plot_steps,
)
from flowvae.evaluation.iwae import IWAE, measure_iwae
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
from flowvae.evaluation.tempering import Tempering
from flowvae.evaluation.weights import Draws, importance_draws, log_mean

__all__ = [
    "AIS",
    "BDMC",
    "IWAE",
    "Draws",
    "FlowLikelihoods",
    "Likelihoods",
    "Metric",
    "Tempering",
    "draw_figures",
    "exact_metrics",
    "flow_metrics",
    "importance_draws",
    "interpolate",
    "likelihood_metrics",
    "log_mean",
    "measure_ais",
    "measure_bdmc",
    "measure_flow",
    "measure_iwae",
    "measure_likelihoods",
    "pareto_k",
    "plot_bounds",
    "plot_density",
    "plot_flow_samples",
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
