"""Which prior? N(0, I), a mixture, RealNVP, MAF, NSF, everything else equal.

The primary measure is the test NLL, paired over seeds. What theory predicts: on data that are plenty and
whose codes are far from Gaussian (the pinwheel) a flow prior comes nearer to the exact evidence; on few data
(the 1257 training digits) it can memorize their codes, so that its gain is bounded by what regularization
leaves of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from flowvae.comparisons.engine.question import Question, flow_size
from flowvae.comparisons.questions.prior_pictures import draw_priors
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.flows import MAF, NSF, CouplingNSF, RealNVP
from flowvae.models import Mixture, PriorSpec, StandardNormal

__all__ = ["QUESTION"]


def _arms(base: Experiment) -> dict[str, Experiment]:
    steps, widths = flow_size(base)
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
    """The densities of four priors above their aggregated posteriors, where the latent is 2-D."""
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
