"""Where does a flow help more: in the prior, in the guide, or in both?

Six arms with equal numbers of parameters: N(0, I) with a Gaussian guide (normal), with a full covariance (full-rank), a
flow prior (prior-flow), a flow in the guide that is the same for every x (guide-static) or depends on x (guide-flow),
and flows in both places (both). A wider encoder compensates for the parameters of the flows that an arm lacks. Decoders
have three widths (one where a run takes hours), because a strong decoder can warp its latent space by itself. The
primary measure is the test NLL, paired over seeds; the ELBO and the parts of its gap are reported as well.

What theory predicts: a flow prior is a deeper decoder with a warped guide (Chen et al. 2017), so it can raise the
evidence itself, while a flow in the guide can only lower the gap between evidence and bound. So the flow prior should
win in NLL where the aggregated posterior is far from Gaussian, the conditioned guide only in the gap, and a static
guide should be worse than a conditioned one. The gain of both should be less than the sum of the single gains, since
each can replace a part of the other. The wider the decoder, the less either should gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.arm_sizes import fits_many_widths, flow_size
from flowvae.comparisons.engine.parameter_matching import (
    count_parameters,
    hidden_widths,
    scaled,
    widen_encoder,
)
from flowvae.comparisons.engine.plots import plot_curves
from flowvae.comparisons.engine.question import Question
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.flows import IAF, MAF
from flowvae.guides import FlowGuide, FullRank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTION"]

WIDTHS = {"narrow": 0.25, "middle": 1.0, "wide": 4.0}  # factors of the decoder's widths in the base experiment


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    steps, widths = flow_size(data)
    prior, flow = MAF(steps, widths), IAF(steps, widths)
    arms: dict[str, Experiment] = {}
    several = fits_many_widths(data) and hidden_widths(base.decoder)
    for name, factor in WIDTHS.items() if several else (("middle", 1.0),):
        at = base if factor == 1 else replace(base, decoder=scaled(base.decoder, factor))
        here = {
            "normal": at,
            "full-rank": replace(at, guide=FullRank()),
            "prior-flow": replace(at, prior=prior),
            "guide-static": replace(at, guide=FlowGuide(flow, conditioned=False)),
            "guide-flow": replace(at, guide=FlowGuide(flow)),
            "both": replace(at, prior=prior, guide=FlowGuide(flow)),
        }
        most = max(count_parameters(experiment, data) for experiment in here.values())
        arms |= {f"{arm}@{name}": widen_encoder(experiment, data, most) for arm, experiment in here.items()}
    return arms


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """Plot the NLL against the width of the decoder, if there are several widths."""
    found = [arm.partition("@") for arm in table["arm"].unique()]
    if len({width for _, _, width in found}) < 2:
        return {}
    names = dict.fromkeys(name for name, _, _ in found)
    lines = {name: [(factor, f"{name}@{width}") for width, factor in WIDTHS.items()] for name in names}
    label = "test NLL, nats per data point (lower: better)"
    return {"decoder-widths": plot_curves(table, lines, "nll", "width of the decoder, times the base's", label, True)}


QUESTION = Question(
    "prior-or-posterior",
    __doc__,
    _arms,
    baseline="normal",
    pairs=(
        ("prior-flow", "guide-flow"),
        ("both", "prior-flow"),
        ("both", "guide-flow"),
        ("guide-flow", "guide-static"),
    ),
    data=("digits", "sprites", "static-mnist"),
    secondary=("elbo", "nll_ais", "inference_gap", "amortization_gap", "approximation_gap"),
    measures=("gaps",),
    draw=_draw,
)
