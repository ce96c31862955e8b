"""Must the prior be learned with the VAE, or does it suffice to fit it afterwards?

Six arms: N(0, I) (normal); the same VAE with frozen encoder and decoder and another prior fitted to its aggregated
posterior q̄, a mixture (mixture-two-stage) or a flow (flow-two-stage); flow-two-stage with all parts trained further
(fine-tuned); normal trained further with its own prior for as long (trained-on), the baseline for fine-tuned, which
trains longer than the other arms; and the flow prior trained jointly from the start (flow-joint). The first stage of
all is the same, so the two-stage arms differ from normal only in the prior. The primary measure is the test NLL, paired
over seeds.

What theory predicts: a second stage gains exactly KL(q̄‖N) − KL(q̄‖p) in the bound, the cost of the holes of N(0, I). A
VAE trained with N(0, I) has already filled most of its holes, so this gain should be small. Joint training should gain
more, since encoder and decoder can then use any latent space that the prior can learn. If fine-tuning reaches the joint
arm, the order of training does not matter; if two stages do, the decoder has learned all that the prior can express. On
few data a flow can memorize the training codes in all of these arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.arm_sizes import flow_size
from flowvae.comparisons.engine.plots import draw_priors
from flowvae.comparisons.engine.question import Question
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.flows import MAF
from flowvae.models import Mixture, StandardNormal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTION"]

SHOWN = {
    "normal": "N(0, I)",
    "mixture-two-stage": "mixture, two stages",
    "flow-two-stage": "MAF, two stages",
    "flow-joint": "MAF, joint",
}


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    flow = MAF(*flow_size(data))
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
    """Plot the densities of four priors above their aggregated posteriors, if the latent space is 2-D."""
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
    # compare marginal_kl_train only between arms; subsampling_bias_train is its bias with 5000 codes
    secondary=(
        *("elbo", "nll_ais", "effective_draws", "kl", "marginal_kl_train", "subsampling_bias_train"),
        *("held_out_hole_mass", "c2st_auc", "fid"),
    ),
    measures=("surgery", "holes", "classifier", "generation", "gaps"),
    draw=_draw,
)
