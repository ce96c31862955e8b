"""How much of the KL weight's trade does a learned prior undo?

The KL term is weighted by β from 0.01 to 3, with N(0, I) (normal), the same VAE with a flow prior fitted afterwards
(two-stage), and the flow trained jointly (joint). At each β the latter two are compared with normal. The primary
measure is the test bound at β = 1 for every training β; reconstruction and NLL are reported as well.

What theory predicts: a small β improves reconstruction, but the aggregated posterior is far from N(0, I), so the bound
at β = 1 is bad and samples are worse. That part of the loss is KL(q̄‖p), and a prior fitted afterwards recovers it:
two-stage should gain most at the smallest β and nothing near β = 1, and make the bound flatter in β. It cannot recover
the mutual information that a small β costs. At β = 3 units collapse and there is little left to fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.arm_sizes import flow_size
from flowvae.comparisons.engine.plots import plot_curves
from flowvae.comparisons.engine.question import Question
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.flows import MAF

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTION"]

WEIGHTS = (0.01, 0.1, 0.3, 1.0, 3.0)
KINDS = ("normal", "two-stage", "joint")
CURVES = {
    "elbo": "test ELBO at β = 1,\nnats per data point (higher: better)",
    "reconstruction": "test reconstruction E[log p(x | z)],\nnats per data point (higher: better)",
}


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    flow = MAF(*flow_size(data))
    fit = SecondStage(flow, base.inference)
    arms = {}
    for weight in WEIGHTS:
        at = replace(base, inference=replace(base.inference, kl_weight=weight))
        arms[f"normal@{weight:g}"] = at
        arms[f"two-stage@{weight:g}"] = replace(at, second_stage=fit)
        arms[f"joint@{weight:g}"] = replace(at, prior=flow)
    return arms


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """Plot bound and reconstruction against β."""
    lines = {kind: [(weight, f"{kind}@{weight:g}") for weight in WEIGHTS] for kind in KINDS}
    return {name: plot_curves(table, lines, name, "β in training", label, True) for name, label in CURVES.items()}


QUESTION = Question(
    "kl-weight",
    __doc__,
    _arms,
    baseline="normal",
    pairs=(("two-stage", "joint"),),
    data=("digits", "sprites"),
    measure="elbo",
    lower_is_better=False,
    secondary=("reconstruction", "kl", "nll", "fid"),
    measures=("generation",),
    draw=_draw,
)
