"""Must the prior be learnt with the VAE, or does it suffice to fit it afterwards?

Six arms: N(0, I) (normal); the same VAE with another prior fitted to its aggregated posterior q̄, encoder and decoder
frozen, a mixture (mixture-two-stage) or a flow (flow-two-stage); the latter trained on as a whole (fine-tuned); normal
trained on for as long with its own prior (trained-on), which is what fine-tuning has to beat, because it trains longer
than the rest; and the flow prior trained jointly from the start (flow-joint). The first stage of all is the same, so
the two-stage arms differ from normal in the prior alone. The primary measure is the test NLL, paired over seeds.

What theory predicts: a second stage gains exactly KL(q̄‖N) − KL(q̄‖p) in the bound, the holes of N(0, I), and nothing
else. A VAE that was trained against N(0, I) has paid for filling its holes already: what is left to gain should be
small, and joint training better, because encoder and decoder are free to use a space that the prior will learn. If
fine-tuning reaches the joint arm, the way there does not matter; if two stages do, the decoder has learnt all
that the prior knows. On few data a flow can learn the training codes by heart in any of these ways.
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
from flowvae.experiments.stages import SecondStage
from flowvae.flows import MAF
from flowvae.models import Mixture, StandardNormal

__all__ = ["QUESTION"]

# further learned priors, such as energy-based ones, belong here as second stages or as priors
SHOWN = {
    "normal": "N(0, I)",
    "mixture-two-stage": "mixture, two stages",
    "flow-two-stage": "MAF, two stages",
    "flow-joint": "MAF, joint",
}


def _arms(base: Experiment) -> dict[str, Experiment]:
    flow = MAF(*flow_size(base))
    fit = SecondStage(flow, base.inference)
    return {
        "normal": base,
        "mixture-two-stage": replace(base, second_stage=replace(fit, prior=Mixture())),
        "flow-two-stage": replace(base, second_stage=fit),
        "fine-tuned": replace(base, second_stage=replace(fit, fine_tune=True)),
        "trained-on": replace(base, second_stage=replace(fit, prior=StandardNormal(), fine_tune=True)),
        "flow-joint": replace(base, prior=flow),
    }


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """The densities of four priors above their aggregated posteriors, where the latent is 2-D."""
    return draw_priors(runs, SHOWN)


QUESTION = Question(
    "holes",
    __doc__,
    _arms,
    baseline="normal",
    pairs=(
        ("flow-two-stage", "flow-joint"),
        ("flow-two-stage", "mixture-two-stage"),
        ("fine-tuned", "flow-two-stage"),
        ("fine-tuned", "trained-on"),
        ("fine-tuned", "flow-joint"),
    ),
    data=("digits", "sprites", "pinwheel"),
    # marginal_kl_train can only be compared between arms: subsampling_bias_train, beside it, is what 5000 codes hide
    secondary=(
        *("elbo", "nll_ais", "effective_draws", "kl", "marginal_kl_train", "subsampling_bias_train"),
        *("held_out_hole_mass", "c2st_auc", "fid"),
    ),
    measures=("surgery", "holes", "classifier", "generation", "gaps"),
    draw=_draw,
)
