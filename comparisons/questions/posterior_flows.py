"""Which guide? A Gaussian, a full covariance, one of nine flows, static or conditioned on x, or a semi-amortized one.

The prior is N(0, I) and everything else is equal. The primary measure is the test ELBO, because a better guide need not
change the evidence; the NLL is reported as well. What theory predicts: a richer guide tightens the bound, and a
conditioned flow tightens it more than a static one, which warps every posterior in the same way. A Householder flow
rotates its Gaussian, so it must tie with the full covariance. Tempering should keep units active while reconstruction
is poor. On few data a richer guide can also fit the posteriors of the training data and do worse on test data (Cremer
et al. 2018), which the amortization gap would show. The semi-amortized guide (Kim et al. 2018) starts from the
encoder's output and takes gradient steps for each data point, so it can lower the amortization gap, which no flow does
by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.plots import plot_curves
from flowvae.comparisons.engine.question import Question
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.flows import IAF, CouplingNSF, FlowSpec, Householder, Planar, Radial, RealNVP, Sylvester
from flowvae.guides import FlowGuide, FullRank, SemiAmortized

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTION"]

FLOWS: dict[str, FlowSpec] = {
    "planar": Planar(),
    "radial": Radial(),
    "householder": Householder(8),
    "sylvester-orthogonal": Sylvester("orthogonal"),
    "sylvester-householder": Sylvester("householder"),
    "sylvester-triangular": Sylvester("triangular"),
    "iaf": IAF(),
    "coupling-nsf": CouplingNSF(),
    "realnvp": RealNVP(),
}
TEMPERING = 2000  # steps, about 50 epochs of digits
# numbers of planar layers of the curve of Rezende & Mohamed (2015), and their arms
PLANAR = {2: "planar-2", 4: "planar-4", 8: "planar", 16: "planar-16"}


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    arms = {"gaussian": base, "full-rank": replace(base, guide=FullRank())}
    arms["semi-amortized"] = replace(base, guide=SemiAmortized())
    for name, flow in FLOWS.items():
        arms[f"{name}-static"] = replace(base, guide=FlowGuide(flow, conditioned=False))
        arms[name] = replace(base, guide=FlowGuide(flow))
    arms |= {name: replace(base, guide=FlowGuide(Planar(steps))) for steps, name in PLANAR.items() if name not in arms}
    for name in ("gaussian", "planar", "iaf"):
        slow = replace(base.inference, tempering=TEMPERING)
        arms[f"{name}-tempered"] = replace(arms[name], inference=slow)
    return arms


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """Plot the bound against the number of planar layers; with none the guide is Gaussian."""
    points = [(0.0, "gaussian"), *((float(steps), name) for steps, name in PLANAR.items())]
    label = "test ELBO, nats per data point (higher: better)"
    return {"planar-steps": plot_curves(table, {"planar": points}, "elbo", "planar steps of the guide", label)}


QUESTION = Question(
    "posterior-flows",
    __doc__,
    _arms,
    baseline="gaussian",
    data=("digits", "sprites"),
    pairs=(
        *((name, f"{name}-static") for name in FLOWS),
        ("householder", "full-rank"),
        ("planar-tempered", "planar"),
        ("iaf-tempered", "iaf"),
    ),
    # an orthogonalization with a stopping criterion cannot be captured, and splines are slow
    costly=tuple(
        arm
        for name in ("sylvester-orthogonal", "sylvester-triangular", "coupling-nsf")
        for arm in (name, f"{name}-static")
    ),
    measure="elbo",
    lower_is_better=False,
    secondary=("nll", "nll_ais", "approximation_gap", "amortization_gap"),
    measures=("gaps",),
    draw=_draw,
)
