"""Measures with units and protocols, the ArviZ export, and figures."""

from flowvae.evaluation.arviz_export import to_arviz, weighed_to_arviz
from flowvae.evaluation.arviz_versions import pareto_k, psis
from flowvae.evaluation.bits_per_dim import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.evaluation.calibration import Calibration, calibrate, calibrate_fits, ecdf_band
from flowvae.evaluation.diagnostic_plots import plot_calibration, plot_khat, plot_weights
from flowvae.evaluation.exact import exact_metrics
from flowvae.evaluation.flow_plots import (
    interpolate,
    plot_density,
    plot_flow_samples,
    plot_interpolation,
    plot_steps,
)
from flowvae.evaluation.importance import NoisyParetoKWarning, Weighed, weigh, weigh_each
from flowvae.evaluation.likelihood import Likelihoods, likelihood_metrics, measure_likelihoods
from flowvae.evaluation.loo import LeaveOneOut, loo
from flowvae.evaluation.metrics import Metric, read_metrics, write_metrics
from flowvae.evaluation.nuts import compare_to_reference, run_nuts
from flowvae.evaluation.plots import (
    draw_figures,
    plot_history,
    plot_latent,
    plot_priors,
    plot_reconstructions,
    plot_samples,
)
from flowvae.evaluation.posterior_plots import plot_funnel
from flowvae.evaluation.predictive import predict
from flowvae.evaluation.weights import Draws, importance_draws

__all__ = [
    "Calibration",
    "Draws",
    "FlowLikelihoods",
    "LeaveOneOut",
    "Likelihoods",
    "Metric",
    "NoisyParetoKWarning",
    "Weighed",
    "calibrate",
    "calibrate_fits",
    "compare_to_reference",
    "draw_figures",
    "ecdf_band",
    "exact_metrics",
    "flow_metrics",
    "importance_draws",
    "interpolate",
    "likelihood_metrics",
    "loo",
    "measure_flow",
    "measure_likelihoods",
    "pareto_k",
    "plot_calibration",
    "plot_density",
    "plot_flow_samples",
    "plot_funnel",
    "plot_history",
    "plot_interpolation",
    "plot_khat",
    "plot_latent",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "plot_steps",
    "plot_weights",
    "predict",
    "psis",
    "read_metrics",
    "run_nuts",
    "to_arviz",
    "weigh",
    "weigh_each",
    "weighed_to_arviz",
    "write_metrics",
]
