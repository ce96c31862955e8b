"""Measures with units and protocols, the ArviZ export, and figures."""

from flowvae.evaluation.arviz_export import to_arviz, weighed_to_arviz
from flowvae.evaluation.arviz_versions import pareto_k, psis
from flowvae.evaluation.bits_per_dim import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.evaluation.calibration import Calibration, calibrate, calibrate_fits, ecdf_band
from flowvae.evaluation.diagnostic_plots import plot_calibration, plot_khat, plot_weights
from flowvae.evaluation.exact import exact_metrics
from flowvae.evaluation.feature_distances import compare_features, frechet_distance, kernel_distance, prdc
from flowvae.evaluation.features import Classifier, Features, load_features, train_features, whiten
from flowvae.evaluation.flow_plots import (
    interpolate,
    plot_density,
    plot_flow_samples,
    plot_interpolation,
    plot_steps,
)
from flowvae.evaluation.generated import generate
from flowvae.evaluation.generation import Generation, expected_coverage, expected_fid, fid_at_sizes, measure_generation
from flowvae.evaluation.generation_plots import plot_fid_bias, plot_memorization
from flowvae.evaluation.importance import NoisyParetoKWarning, Weighed, weigh, weigh_each
from flowvae.evaluation.likelihood import Likelihoods, likelihood_metrics, measure_likelihoods
from flowvae.evaluation.loo import LeaveOneOut, loo
from flowvae.evaluation.memorization import Memorization, measure_memorization
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
from flowvae.evaluation.predictive import predict
from flowvae.evaluation.weights import Draws, importance_draws

__all__ = [
    "Calibration",
    "Classifier",
    "Draws",
    "Features",
    "FlowLikelihoods",
    "Generation",
    "LeaveOneOut",
    "Likelihoods",
    "Memorization",
    "Metric",
    "NoisyParetoKWarning",
    "Weighed",
    "calibrate",
    "calibrate_fits",
    "compare_features",
    "compare_to_reference",
    "draw_figures",
    "ecdf_band",
    "exact_metrics",
    "expected_coverage",
    "expected_fid",
    "fid_at_sizes",
    "flow_metrics",
    "frechet_distance",
    "generate",
    "importance_draws",
    "interpolate",
    "kernel_distance",
    "likelihood_metrics",
    "load_features",
    "loo",
    "measure_flow",
    "measure_generation",
    "measure_likelihoods",
    "measure_memorization",
    "pareto_k",
    "plot_calibration",
    "plot_density",
    "plot_fid_bias",
    "plot_flow_samples",
    "plot_history",
    "plot_interpolation",
    "plot_khat",
    "plot_latent",
    "plot_memorization",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "plot_steps",
    "plot_weights",
    "prdc",
    "predict",
    "psis",
    "read_metrics",
    "run_nuts",
    "to_arviz",
    "train_features",
    "weigh",
    "weigh_each",
    "weighed_to_arviz",
    "whiten",
    "write_metrics",
]
