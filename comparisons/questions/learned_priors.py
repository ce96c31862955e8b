"""Which learned prior: a mixture, pseudo-inputs, a flow, a second level, an energy, or flow matching?

Arms with the name of a prior train it jointly with the same encoder and decoder. Arms with "-after" fit it to the codes
of the VAE with N(0, I) (normal), whose encoder and decoder stay as they are; so do contrastive and energy, which cannot
be trained jointly, and flow-matching. The primary measure is the test NLL, paired over seeds. A prior with latent
variables has no density in closed form, so measures that need it leave two-level out.

What theory predicts: a prior fitted afterwards gains KL(q̄‖N) − KL(q̄‖p) in the bound and no more, whatever its kind, so
these arms should tie as far as they can express q̄. Jointly, encoder and decoder can use what the prior can express; the
order then depends on how well each kind learns from the number of codes at hand. What differs without doubt is the cost
of a draw: one pass for a mixture or a coupling flow, one for each dimension of an autoregressive flow, many for an
ordinary differential equation.

The arm top-down-warm, with the KL term warmed up over the first quarter of the epochs as in Sønderby et al. (2016), was
added after top-down had lost 20 nats on digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.arm_sizes import flow_size
from flowvae.comparisons.engine.plots import draw_priors, plot_against
from flowvae.comparisons.engine.question import Question
from flowvae.core.parts import PriorSpec
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.flows import MAF, NSF, RealNVP, TarFlow
from flowvae.models import (
    GTM,
    Contrastive,
    Energy,
    Exemplar,
    FlowMatching,
    GaussianLikelihood,
    LatentVariablePrior,
    Mixture,
    MixtureFlow,
    StandardNormal,
    VampGTM,
    VampPrior,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTION"]

FEW = 5000  # training data points below which priors have few components


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    steps, widths = flow_size(data)
    few = len(data.train) < FEW
    components = 50 if few else 500
    maf = MAF(steps, widths)
    two_level = LatentVariablePrior(
        latent=base.latent_shape.numel(),
        encoder=base.encoder,
        decoder=base.decoder,
        likelihood=GaussianLikelihood("each"),
    )
    joint: dict[str, PriorSpec] = {
        "normal": StandardNormal(),
        "mixture": Mixture(components),
        "gtm": GTM(),
        "vamp": VampPrior(components, start="data" if few else "mean"),
        "vamp-gtm": VampGTM(),
        "exemplar": Exemplar(),
        "realnvp": RealNVP(2 * steps, widths),
        "maf": maf,
        "nsf": NSF(steps, widths, affine=True),
        "tarflow": TarFlow(),
        "mixture-flow": MixtureFlow(maf),
        "two-level": two_level,
        "top-down": replace(two_level, direction="top-down"),
    }
    after: dict[str, PriorSpec] = {
        "mixture-after": Mixture(components),
        "maf-after": maf,
        "two-level-after": two_level,
        "contrastive": Contrastive(),
        "energy": Energy(),
        "flow-matching": FlowMatching(),
    }
    training = replace(base.inference, kl_warmup=0, tempering=0)
    warm = replace(base.inference, kl_warmup=base.inference.epochs // 4)
    return {
        **{name: replace(base, prior=prior) for name, prior in joint.items()},
        "top-down-warm": replace(base, prior=joint["top-down"], inference=warm),
        **{name: replace(base, second_stage=SecondStage(prior, training)) for name, prior in after.items()},
    }


def _draw(runs: Mapping[str, Run], table: pd.DataFrame) -> dict[str, Figure]:
    """Plot the NLL against the sampling time, and the densities of four priors if the latent space is 2-D."""
    figures = draw_priors(runs, SHOWN)
    if {"nll", "sampling_seconds"} <= set(table):
        labels = "CPU seconds for 10,000 codes", "test NLL, nats per data point"
        figures["nll-against-sampling"] = plot_against(table, "sampling_seconds", "nll", *labels)
    return figures


SHOWN = {"normal": "N(0, I)", "vamp": "VampPrior", "maf": "MAF", "flow-matching": "flow matching"}
QUESTION = Question(
    "learned-priors",
    __doc__,
    _arms,
    baseline="normal",
    pairs=(
        ("maf", "mixture"),
        ("maf", "vamp"),
        ("maf", "maf-after"),
        ("mixture", "mixture-after"),
        ("two-level", "two-level-after"),
        ("top-down", "two-level"),
        ("top-down-warm", "top-down"),
    ),
    data=("digits", "sprites", "static-mnist", "pinwheel"),
    secondary=(
        *("elbo", "nll_ais", "effective_draws", "kl", "marginal_kl_train", "held_out_hole_mass"),
        *("fid", "sampling_seconds", "seconds_per_epoch"),
    ),
    measures=("surgery", "holes", "generation", "gaps", "sampling-time"),
    draw=_draw,
)
