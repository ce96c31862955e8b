"""Which prior? N(0, I), a mixture, RealNVP, MAF, NSF, everything else equal.

The primary measure is the test NLL, paired over seeds. What theory predicts: on many data with codes far from
Gaussian (the pinwheel) a flow prior comes closer to the exact evidence; on few data (the 1257 training digits) it can
memorize their codes, so its gain is limited by the regularization that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.arm_sizes import flow_size
from flowvae.comparisons.engine.plots import draw_priors
from flowvae.comparisons.engine.question import Question
from flowvae.core.parts import PriorSpec
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.flows import MAF, NSF, CouplingNSF, RealNVP
from flowvae.models import Mixture, StandardNormal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTION"]


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    steps, widths = flow_size(data)
    priors: dict[str, PriorSpec] = {
        "normal": StandardNormal(),
        "mixture": Mixture(),
        "realnvp": RealNVP(2 * steps, widths),
        "maf": MAF(steps, widths),
        "nsf": NSF(steps, widths),
        "coupling-nsf": CouplingNSF(2 * steps, widths),
        "maf-deeper": MAF(2 * steps, widths),
        "maf-wider": MAF(steps, tuple(4 * width for width in widths)),
    }
    return {name: replace(base, prior=prior) for name, prior in priors.items()}


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """Plot the densities of four priors above their aggregated posteriors, if the latent space is 2-D."""
    return draw_priors(runs, SHOWN)


SHOWN = {"normal": "N(0, I)", "mixture": "mixture", "maf": "MAF", "nsf": "NSF"}
QUESTION = Question(
    "prior-flows",
    __doc__,
    _arms,
    baseline="normal",
    data=("digits", "sprites", "pinwheel"),
    secondary=("elbo", "nll_ais", "effective_draws"),
    measures=("gaps",),
    draw=_draw,
)
