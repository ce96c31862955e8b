"""Measures with units and protocols, the ArviZ export, and figures."""

import flowvae.core.validation  # noqa: F401  (before zuko)
from flowvae.evaluation.arviz.export import importance_sample_to_arviz, to_arviz
from flowvae.evaluation.arviz.versions import psis
from flowvae.evaluation.calibration.calibration import Calibration, calibrate, calibrate_fits, ecdf_band
from flowvae.evaluation.calibration.nuts import compare_to_reference, run_nuts
from flowvae.evaluation.calibration.predictive import predict
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.effort import Effort
from flowvae.evaluation.figures.bound_plots import plot_bounds, plot_gaps
from flowvae.evaluation.figures.diagnostic_plots import plot_calibration, plot_khat
from flowvae.evaluation.figures.explorer_plots import Scene, draw_state
from flowvae.evaluation.figures.flow_plots import (
    interpolate,
    plot_density,
    plot_flow_interpolation,
    plot_flow_samples,
    plot_steps,
)
from flowvae.evaluation.figures.generation_plots import plot_fid_bias, plot_memorization
from flowvae.evaluation.figures.images import check_images, image_grid, is_image, value_range
from flowvae.evaluation.figures.interpolation_plots import plot_interpolation
from flowvae.evaluation.figures.latent_plots import plot_activity, plot_holes
from flowvae.evaluation.figures.panels import Panel, draw_panels
from flowvae.evaluation.figures.posterior_plots import plot_funnel
from flowvae.evaluation.figures.prior_plots import plot_latent, plot_priors
from flowvae.evaluation.figures.reconstruction_plots import plot_reconstructions
from flowvae.evaluation.figures.run_plots import FIGURES, draw_figure, draw_figures, plot_history, write_figure
from flowvae.evaluation.figures.sample_plots import plot_neighbours, plot_samples
from flowvae.evaluation.figures.traversal_plots import plot_traversal
from flowvae.evaluation.latent.activity import Activity, measure_activity
from flowvae.evaluation.latent.aggregated_posterior import AggregatedPosterior, ForeignCost, draw_codes
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.evaluation.latent.classifier_test import ClassifierTest, measure_classifier
from flowvae.evaluation.latent.holes import Holes, measure_holes
from flowvae.evaluation.latent.interpolation import Interpolation, interpolate_codes, measure_interpolation
from flowvae.evaluation.latent.prior_overfitting import PriorOverfitting, measure_prior_overfitting
from flowvae.evaluation.latent.surgery import Surgery, measure_surgery
from flowvae.evaluation.latent.two_sample import MMD, measure_mmd
from flowvae.evaluation.likelihood.ais import AIS, measure_ais
from flowvae.evaluation.likelihood.annealed_hmc import AnnealedHMC
from flowvae.evaluation.likelihood.bdmc import BDMC, measure_bdmc
from flowvae.evaluation.likelihood.bits_per_dim import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.evaluation.likelihood.elbo_and_nll import Likelihoods, likelihood_metrics, measure_likelihoods
from flowvae.evaluation.likelihood.gaps import Gaps, measure_gaps
from flowvae.evaluation.likelihood.importance_sampling import (
    ImportanceSample,
    NarrowGuideWarning,
    NoisyParetoKWarning,
    importance_sample,
    importance_sample_each,
)
from flowvae.evaluation.likelihood.importance_weights import Draws, importance_draws, log_mean
from flowvae.evaluation.likelihood.iwae import IWAE, measure_iwae
from flowvae.evaluation.likelihood.loo import LeaveOneOut, loo
from flowvae.evaluation.likelihood.pareto_tail import pareto_k
from flowvae.evaluation.likelihood.sampler import COMPILE
from flowvae.evaluation.metric import Metric, merge_metrics, merged, read_metrics, write_metrics
from flowvae.evaluation.registry import MEASURES, check_measures, figures_of_measures, held_out_measures, measure
from flowvae.evaluation.samples.feature_distances import compare_features, frechet_distance, kernel_distance, prdc
from flowvae.evaluation.samples.features import Classifier, Features, load_features, train_features, whiten
from flowvae.evaluation.samples.generation import Generation, expected_fid, fid_at_sizes, measure_generation
from flowvae.evaluation.samples.memorization import Memorization, measure_memorization
from flowvae.evaluation.samples.neighbours import nearest_neighbours
from flowvae.evaluation.samples.sampling import generate
from flowvae.evaluation.samples.sampling_time import measure_sampling_time

__all__ = [
    "AIS",
    "BDMC",
    "COMPILE",
    "FIGURES",
    "IWAE",
    "MEASURES",
    "MMD",
    "Activity",
    "AggregatedPosterior",
    "AnnealedHMC",
    "Calibration",
    "Classifier",
    "ClassifierTest",
    "Draws",
    "Effort",
    "EvaluationContext",
    "Features",
    "FlowLikelihoods",
    "ForeignCost",
    "Gaps",
    "Generation",
    "Holes",
    "ImportanceSample",
    "Interpolation",
    "LeaveOneOut",
    "Likelihoods",
    "MeasureResult",
    "Memorization",
    "Metric",
    "NarrowGuideWarning",
    "NoisyParetoKWarning",
    "Panel",
    "PriorOverfitting",
    "Scene",
    "Surgery",
    "calibrate",
    "calibrate_fits",
    "check_images",
    "check_measures",
    "compare_features",
    "compare_to_reference",
    "draw_codes",
    "draw_figure",
    "draw_figures",
    "draw_panels",
    "draw_state",
    "ecdf_band",
    "expected_fid",
    "fid_at_sizes",
    "figures_of_measures",
    "flow_metrics",
    "frechet_distance",
    "from_base",
    "generate",
    "has_base",
    "held_out_measures",
    "image_grid",
    "importance_draws",
    "importance_sample",
    "importance_sample_each",
    "importance_sample_to_arviz",
    "interpolate",
    "interpolate_codes",
    "is_image",
    "kernel_distance",
    "likelihood_metrics",
    "load_features",
    "log_mean",
    "loo",
    "measure",
    "measure_activity",
    "measure_ais",
    "measure_bdmc",
    "measure_classifier",
    "measure_flow",
    "measure_gaps",
    "measure_generation",
    "measure_holes",
    "measure_interpolation",
    "measure_iwae",
    "measure_likelihoods",
    "measure_memorization",
    "measure_mmd",
    "measure_prior_overfitting",
    "measure_sampling_time",
    "measure_surgery",
    "merge_metrics",
    "merged",
    "nearest_neighbours",
    "pareto_k",
    "plot_activity",
    "plot_bounds",
    "plot_calibration",
    "plot_density",
    "plot_fid_bias",
    "plot_flow_interpolation",
    "plot_flow_samples",
    "plot_funnel",
    "plot_gaps",
    "plot_history",
    "plot_holes",
    "plot_interpolation",
    "plot_khat",
    "plot_latent",
    "plot_memorization",
    "plot_neighbours",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "plot_steps",
    "plot_traversal",
    "prdc",
    "predict",
    "psis",
    "read_metrics",
    "run_nuts",
    "to_arviz",
    "to_base",
    "train_features",
    "value_range",
    "whiten",
    "write_figure",
    "write_metrics",
]
