"""Every measure of a fitted VAE by its name, as `flowvae evaluate --measures` runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.data import Dataset
from flowvae.evaluation.calibration.calibration import calibrate
from flowvae.evaluation.effort import Effort
from flowvae.evaluation.figures.bound_plots import plot_bounds, plot_gaps
from flowvae.evaluation.figures.diagnostic_plots import plot_calibration, plot_khat
from flowvae.evaluation.figures.generation_plots import plot_fid_bias, plot_memorization
from flowvae.evaluation.figures.interpolation_plots import plot_paths, plot_traversals
from flowvae.evaluation.figures.latent_plots import plot_activity, plot_holes
from flowvae.evaluation.latent.activity import measure_activity
from flowvae.evaluation.latent.classifier_test import measure_classifier
from flowvae.evaluation.latent.holes import measure_holes
from flowvae.evaluation.latent.interpolation import different_pairs, measure_interpolation
from flowvae.evaluation.latent.prior_overfitting import measure_prior_overfitting
from flowvae.evaluation.latent.surgery import measure_surgery
from flowvae.evaluation.latent.two_sample import measure_mmd
from flowvae.evaluation.likelihood.bdmc import measure_bdmc
from flowvae.evaluation.likelihood.elbo_and_nll import likelihood_metrics, measure_likelihoods
from flowvae.evaluation.likelihood.gaps import measure_gaps
from flowvae.evaluation.likelihood.importance_weights import COMPILE
from flowvae.evaluation.likelihood.iwae import measure_iwae
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.samples.features import load_features
from flowvae.evaluation.samples.generation import fid_at_sizes, measure_generation
from flowvae.evaluation.samples.memorization import measure_memorization
from flowvae.guides import AmortizedGuide
from flowvae.inference.not_finite import broken_tensor
from flowvae.models import VAE

__all__ = ["MEASURES", "OF_HELD_OUT_DATA", "EvaluationContext", "MeasureResult", "check_measures"]

MANY = 5000  # data for measures of all pairs
PAIRS = 500  # of data, with a path between them


@dataclass(frozen=True)
class MeasureResult:
    """What a measure gave.

    Args:
        metrics: its numbers.
        figures: functions that draw it, by name.
    """

    metrics: list[Metric]
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationContext:
    """A fitted pair on a split of its data.

    Args:
        model: the model.
        guide: its guide.
        data: with all splits.
        split: the one that is measured.
        draws: K of the likelihood.
        seed: of all measures.
        protocol: identity of the data and version, which every metric repeats.
        compile: of the draws for likelihood and IWAE bound: "none", "capture" or "inductor".
        effort: of the measures that refine guides or run chains.
        progress: whether to show progress bars.

    Raises:
        FlowvaeError: if a parameter or buffer of the pair is not finite.
    """

    model: VAE
    guide: AmortizedGuide
    data: Dataset
    split: str
    draws: int
    seed: int
    protocol: dict[str, Any]
    compile: str = "none"
    effort: Effort = field(default_factory=Effort)
    progress: bool = False

    def __post_init__(self) -> None:
        if broken := broken_tensor(model=self.model, guide=self.guide):
            raise FlowvaeError(f"{broken}, so nothing can be measured; restore the checkpoint, or train again.")

    def rows(self, most: int | None = None, split: str | None = None) -> Tensor:
        """The first data of the split, shape (N, D), on the model's device."""
        x: Tensor = getattr(self.data, split or self.split)
        return x[:most].to(next(self.guide.parameters()).device)

    def facts(self, x: Tensor) -> dict[str, Any]:
        """The protocol of a measure on these rows."""
        return {**self.protocol, "seed": self.seed, "rows": len(x)}

    @property
    def efforts(self) -> dict[str, Any]:
        """What the protocol of a measure that depends on the effort holds besides."""
        return {"effort": self.effort.as_dict()}

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of every measure that shows its progress."""
        return {"seed": self.seed, "progress": self.progress}


def _likelihood(subject: EvaluationContext) -> MeasureResult:
    """ELBO, its two parts and the NLL by K draws of the guide, with effective draws and k̂."""
    x, data = subject.rows(), subject.data
    how = {"compile": subject.compile, **subject.how}
    result = measure_likelihoods(subject.model, subject.guide, x, subject.draws, **how)
    exact = data.log_evidence(x.cpu()) if data.log_evidence else None
    protocol = {**subject.facts(x), "draws": subject.draws}
    metrics = likelihood_metrics(result, data.features, data.likelihood.discrete, subject.split, protocol, exact)
    fitted = result.pareto_k.isfinite().any()  # from few draws, or equal weights, no k̂ is
    return MeasureResult(metrics, {"khat": lambda: plot_khat(result.pareto_k)} if fitted else {})


def _iwae(subject: EvaluationContext) -> MeasureResult:
    """The bound for K = 1 to 5000, its predicted bias, effective draws and k̂."""
    x = subject.rows(subject.effort.rows)
    result = measure_iwae(subject.model, subject.guide, x, compile=subject.compile, **subject.how)
    protocol = {**subject.facts(x), **subject.efforts}
    return MeasureResult(result.metrics(subject.split, protocol), {"bounds": lambda: plot_bounds(result)})


def _gaps(subject: EvaluationContext) -> MeasureResult:
    """NLL by annealed importance sampling, approximation and amortization gap."""
    effort = subject.effort
    x = subject.rows(effort.rows)
    how = {"steps": effort.refinement, "tempering": effort.tempering, **subject.how}
    result = measure_gaps(subject.model, subject.guide, x, **how)
    protocol = {**subject.facts(x), **subject.efforts}
    return MeasureResult(result.metrics(subject.split, protocol), {"gaps": lambda: plot_gaps({"guide": result})})


def _bdmc(subject: EvaluationContext) -> MeasureResult:
    """Lower and upper bounds of log p(x) on simulated data: how far AIS is to be trusted."""
    effort = subject.effort
    result = measure_bdmc(subject.model, subject.guide, effort.rows, effort.tempering, **subject.how)
    return MeasureResult(result.metrics("simulated", {**subject.protocol, "seed": subject.seed, **subject.efforts}))


def _surgery(subject: EvaluationContext) -> MeasureResult:
    """Mutual information and marginal KL(q̄‖p) of the training codes."""
    x = subject.rows(MANY, "train")
    return MeasureResult(
        measure_surgery(subject.model, subject.guide, x, **subject.how).metrics("train", subject.facts(x))
    )


def _held_out_codes(subject: EvaluationContext) -> MeasureResult:
    """What the prior and the aggregated posterior think of codes of the split, beside those of training data."""
    x, train = subject.rows(MANY), subject.rows(MANY, "train")
    result = measure_prior_overfitting(subject.model, subject.guide, x, train, **subject.how)
    return MeasureResult(result.metrics(subject.split, {**subject.facts(x), "train_rows": len(train)}))


def _holes(subject: EvaluationContext) -> MeasureResult:
    """Mass of the prior where the aggregated posterior of the training data has next to none."""
    x, train = subject.rows(MANY), subject.rows(MANY, "train")
    model, guide = subject.model, subject.guide
    result = measure_holes(model, guide, train, x, **subject.how)
    metrics = result.metrics(subject.split, {**subject.facts(x), "train_rows": len(train)})
    if model.prior().event_shape[0] < 2:  # the figure is one of the plane
        return MeasureResult(metrics)
    return MeasureResult(metrics, {"holes": lambda: plot_holes(model, guide, train, x, seed=subject.seed)})


def _mmd(subject: EvaluationContext) -> MeasureResult:
    """Squared maximum mean discrepancy of codes and prior, in base space."""
    x = subject.rows(MANY)
    result = measure_mmd(subject.model, subject.guide, x, seed=subject.seed)
    return MeasureResult(result.metrics(subject.split, subject.facts(x)))


def _classifier(subject: EvaluationContext) -> MeasureResult:
    """How well a classifier tells codes from draws of the prior, on held-out pairs."""
    x = subject.rows(MANY)
    result = measure_classifier(subject.model, subject.guide, x, seed=subject.seed)
    return MeasureResult(result.metrics(subject.split, subject.facts(x)))


def _activity(subject: EvaluationContext) -> MeasureResult:
    """Active units, scaled by the prior's variance, and collapse."""
    x = subject.rows(MANY)
    result = measure_activity(subject.model, subject.guide, x, seed=subject.seed)
    return MeasureResult(result.metrics(subject.split, subject.facts(x)), {"activity": lambda: plot_activity(result)})


def _calibration(subject: EvaluationContext) -> MeasureResult:
    """Simulation-based calibration of the guide on data that the model draws."""
    result = calibrate(subject.model, subject.guide, seed=subject.seed)
    metrics = result.metrics("simulated", {**subject.protocol, "seed": subject.seed})
    return MeasureResult(metrics, {"calibration": lambda: plot_calibration(result)})


def _generation(subject: EvaluationContext) -> MeasureResult:
    """FID, KID, precision, recall, density and coverage, with their floor, on features of our own classifier."""
    # the features belong to the data and not to the model, so their seed is the same for every run
    features = load_features(subject.data, seed=0, progress=subject.progress)
    result = measure_generation(subject.model, subject.data, features, split=subject.split, **subject.how)
    metrics = result.metrics(subject.split, {**subject.protocol, "seed": subject.seed})

    def bias() -> Figure:
        sizes = sorted({max(2, result.count // part) for part in (8, 4, 2, 1)})
        others = dict(result.vectors)
        data = others.pop("data")
        tables = {name: fid_at_sizes(data, other, sizes, seed=subject.seed) for name, other in others.items()}
        return plot_fid_bias(tables, data.T.cov())

    return MeasureResult(metrics, {"fid": bias})


def _memorization(subject: EvaluationContext) -> MeasureResult:
    """Whether generated data are nearer to training data than held-out data are."""
    result = measure_memorization(subject.model, subject.data, split=subject.split, **subject.how)
    metrics = result.metrics(subject.split, {**subject.protocol, "seed": subject.seed})
    return MeasureResult(metrics, {"memorization": lambda: plot_memorization(result, subject.data)})


def _paths(subject: EvaluationContext) -> MeasureResult:
    """The lowest log p(z) between codes of different labels, along the flow prior's base and straight."""
    model, guide, data, seed, split = subject.model, subject.guide, subject.data, subject.seed, subject.split
    device = next(guide.parameters()).device
    start, end = (x.to(device) for x in different_pairs(data, PAIRS, seed, split))
    result = measure_interpolation(model, guide, start, end, seed=seed)
    metrics = result.metrics(split, {**subject.protocol, "seed": seed})
    if data.image_shape is None:
        return MeasureResult(metrics)
    drawn = {
        "paths": lambda: plot_paths(model, guide, data, seed=seed, split=split),
        "traversals": lambda: plot_traversals(model, guide, data, seed=seed, split=split),
    }
    return MeasureResult(metrics, drawn)


MEASURES: dict[str, Callable[[EvaluationContext], MeasureResult]] = {
    "likelihood": _likelihood,
    "iwae": _iwae,
    "gaps": _gaps,
    "bdmc": _bdmc,
    "surgery": _surgery,
    "held-out-codes": _held_out_codes,
    "holes": _holes,
    "mmd": _mmd,
    "classifier": _classifier,
    "activity": _activity,
    "calibration": _calibration,
    "generation": _generation,
    "memorization": _memorization,
    "paths": _paths,
}

# they compare the split with the training data
OF_HELD_OUT_DATA = ("held-out-codes", "holes", "generation", "memorization")


def check_measures(measures: Sequence[str], split: str, compile: str) -> None:  # noqa: A002
    """Refuse what no measure can be taken with, before any work.

    Args:
        measures: names in `MEASURES`.
        split: "train", "valid" or "test".
        compile: of `EvaluationContext`.

    Raises:
        FlowvaeError: for an unknown measure, split or way to compile, or a measure of held-out data on "train".
    """
    for name in measures:
        if name not in MEASURES:
            raise FlowvaeError(f"measure {shown(name)}: {nearest(name, MEASURES)}")
    if split not in ("train", "valid", "test"):
        raise FlowvaeError(f"split = {shown(split)}: {nearest(split, ('train', 'valid', 'test'))}")
    held_out = [name for name in measures if name in OF_HELD_OUT_DATA]
    if held_out and split == "train":
        raise FlowvaeError(
            f"split = 'train' with {', '.join(held_out)}: held-out data are compared with the training data there; "
            "name valid or test, or leave it out."
        )
    if compile not in COMPILE:
        raise FlowvaeError(f"compile = {shown(compile)}: {nearest(compile, COMPILE)}")
