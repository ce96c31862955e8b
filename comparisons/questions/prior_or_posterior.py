"""Where does a flow help more: in the prior, in the guide, or in both?

Six arms with equally many parameters: N(0, I) with a Gaussian guide (normal), with a full covariance (full-rank), a
flow prior (prior-flow), a flow on the guide that is the same for every x (guide-static) or depends on x (guide-flow),
and flows in both places (both). Every arm has the flows that it names, and a wider encoder makes up for those that it
lacks. Decoders of three widths, because a strong decoder can bend its latent space by itself. The primary measure is
the test NLL, paired over seeds; the ELBO and the parts of its gap stand beside it.

What theory predicts: a flow prior is a deeper decoder with a warped guide (Chen et al. 2017), so it can raise the
evidence itself, while a flow on the guide can only lower the gap between evidence and bound. So the flow prior should
win by NLL where the aggregated posterior is far from Gaussian, the conditioned guide by the gap alone, and a static
guide fall behind a conditioned one. Both together should add up to less than the sum of their gains, since each can do
a part of the other's work. The wider the decoder, the less either should gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pandas as pd
from matplotlib.figure import Figure

from flowvae.comparisons.engine.parameter_matching import count_parameters, scaled, widen_encoder
from flowvae.comparisons.engine.plots import plot_curves
from flowvae.comparisons.engine.question import Question, flow_size
from flowvae.data import StaticMNIST
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.flows import IAF, MAF
from flowvae.guides import FlowGuide, FullRank
from flowvae.networks import MLP

__all__ = ["QUESTION"]

WIDTHS = {"narrow": 0.25, "middle": 1.0, "wide": 4.0}  # of the decoder, times that of the data set's base


@cache  # counting builds networks
def _arms(base: Experiment) -> dict[str, Experiment]:
    steps, widths = flow_size(base)
    prior, flow = MAF(steps, widths), IAF(steps, widths)
    arms: dict[str, Experiment] = {}
    for name, factor in WIDTHS.items():
        if isinstance(base.data, StaticMNIST) and name != "middle":
            continue  # hours a run
        decoder = scaled(base.decoder, factor) if isinstance(base.decoder, MLP) else base.decoder
        at = replace(base, decoder=decoder)
        here = {
            "normal": at,
            "full-rank": replace(at, guide=FullRank()),
            "prior-flow": replace(at, prior=prior),
            "guide-static": replace(at, guide=FlowGuide(flow, conditioned=False)),
            "guide-flow": replace(at, guide=FlowGuide(flow)),
            "both": replace(at, prior=prior, guide=FlowGuide(flow)),
        }
        most = max(map(count_parameters, here.values()))
        arms |= {f"{arm}@{name}": widen_encoder(experiment, most) for arm, experiment in here.items()}
    return arms


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """NLL against the width of the decoder, where there is more than one."""
    found = [arm.partition("@") for arm in table["arm"].unique()]
    if len({width for _, _, width in found}) < 2:
        return {}
    names = dict.fromkeys(name for name, _, _ in found)
    lines = {name: [(factor, f"{name}@{width}") for width, factor in WIDTHS.items()] for name in names}
    label = "test NLL, nats per datum (lower: better)"
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
