"""Measures with units and protocols, the ArviZ export, and figures."""

from flowvae.evaluation.activity import Activity, measure_activity
from flowvae.evaluation.aggregated import AggregatedPosterior, ForeignCost, draw_codes
from flowvae.evaluation.ais import AIS, measure_ais
from flowvae.evaluation.arviz_export import to_arviz, weighed_to_arviz
from flowvae.evaluation.arviz_versions import pareto_k, psis
from flowvae.evaluation.base_space import from_base, has_base, to_base
from flowvae.evaluation.bdmc import BDMC, measure_bdmc
from flowvae.evaluation.bits_per_dim import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.evaluation.bound_plots import plot_bounds, plot_gaps
from flowvae.evaluation.calibration import Calibration, calibrate, calibrate_fits, ecdf_band
from flowvae.evaluation.classifier_test import ClassifierTest, measure_classifier
from flowvae.evaluation.diagnostic_plots import plot_calibration, plot_khat
from flowvae.evaluation.effort import Effort
from flowvae.evaluation.explorer_plots import Scene, draw_state
from flowvae.evaluation.feature_distances import compare_features, frechet_distance, kernel_distance, prdc
from flowvae.evaluation.features import Classifier, Features, load_features, train_features, whiten
from flowvae.evaluation.flow_plots import (
    interpolate,
    plot_density,
    plot_flow_samples,
    plot_interpolation,
    plot_steps,
)
from flowvae.evaluation.gaps import Gaps, measure_gaps
from flowvae.evaluation.generated import generate
from flowvae.evaluation.generation import Generation, expected_fid, fid_at_sizes, measure_generation
from flowvae.evaluation.generation_plots import plot_fid_bias, plot_memorization
from flowvae.evaluation.held_out_codes import HeldOutCodes, measure_held_out_codes
from flowvae.evaluation.holes import Holes, measure_holes
from flowvae.evaluation.images import image_grid, image_shape, show_images
from flowvae.evaluation.importance import NarrowGuideWarning, NoisyParetoKWarning, Weighed, weigh, weigh_each
from flowvae.evaluation.iwae import IWAE, measure_iwae
from flowvae.evaluation.latent_plots import plot_activity, plot_holes
from flowvae.evaluation.likelihood import Likelihoods, likelihood_metrics, measure_likelihoods
from flowvae.evaluation.loo import LeaveOneOut, loo
from flowvae.evaluation.measures import MEASURES, OF_HELD_OUT_DATA, Subject, Taken, check_measures
from flowvae.evaluation.memorization import Memorization, measure_memorization
from flowvae.evaluation.metrics import Metric, merge_metrics, read_metrics, write_metrics
from flowvae.evaluation.nuts import compare_to_reference, run_nuts
from flowvae.evaluation.path_plots import plot_paths, plot_traversals
from flowvae.evaluation.paths import Paths, latent_paths, measure_paths
from flowvae.evaluation.plots import (
    draw_figures,
    plot_history,
    plot_latent,
    plot_priors,
    plot_reconstructions,
    plot_samples,
    write_figure,
)
from flowvae.evaluation.posterior_plots import plot_funnel
from flowvae.evaluation.predictive import predict
from flowvae.evaluation.surgery import Surgery, measure_surgery
from flowvae.evaluation.tempering import Tempering
from flowvae.evaluation.two_sample import MMD, measure_mmd
from flowvae.evaluation.weights import COMPILE, Draws, importance_draws, log_mean

__all__ = [
    "AIS",
    "BDMC",
    "COMPILE",
    "IWAE",
    "MEASURES",
    "MMD",
    "OF_HELD_OUT_DATA",
    "Activity",
    "AggregatedPosterior",
    "Calibration",
    "Classifier",
    "ClassifierTest",
    "Draws",
    "Effort",
    "Features",
    "FlowLikelihoods",
    "ForeignCost",
    "Gaps",
    "Generation",
    "HeldOutCodes",
    "Holes",
    "LeaveOneOut",
    "Likelihoods",
    "Memorization",
    "Metric",
    "NarrowGuideWarning",
    "NoisyParetoKWarning",
    "Paths",
    "Scene",
    "Subject",
    "Surgery",
    "Taken",
    "Tempering",
    "Weighed",
    "calibrate",
    "calibrate_fits",
    "check_measures",
    "compare_features",
    "compare_to_reference",
    "draw_codes",
    "draw_figures",
    "draw_state",
    "ecdf_band",
    "expected_fid",
    "fid_at_sizes",
    "flow_metrics",
    "frechet_distance",
    "from_base",
    "generate",
    "has_base",
    "image_grid",
    "image_shape",
    "importance_draws",
    "interpolate",
    "kernel_distance",
    "latent_paths",
    "likelihood_metrics",
    "load_features",
    "log_mean",
    "loo",
    "measure_activity",
    "measure_ais",
    "measure_bdmc",
    "measure_classifier",
    "measure_flow",
    "measure_gaps",
    "measure_generation",
    "measure_held_out_codes",
    "measure_holes",
    "measure_iwae",
    "measure_likelihoods",
    "measure_memorization",
    "measure_mmd",
    "measure_paths",
    "measure_surgery",
    "merge_metrics",
    "pareto_k",
    "plot_activity",
    "plot_bounds",
    "plot_calibration",
    "plot_density",
    "plot_fid_bias",
    "plot_flow_samples",
    "plot_funnel",
    "plot_gaps",
    "plot_history",
    "plot_holes",
    "plot_interpolation",
    "plot_khat",
    "plot_latent",
    "plot_memorization",
    "plot_paths",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "plot_steps",
    "plot_traversals",
    "prdc",
    "predict",
    "psis",
    "read_metrics",
    "run_nuts",
    "show_images",
    "to_arviz",
    "to_base",
    "train_features",
    "weigh",
    "weigh_each",
    "weighed_to_arviz",
    "whiten",
    "write_figure",
    "write_metrics",
]
