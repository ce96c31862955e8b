"""Is a flow prior just more decoder?

Four arms: N(0, I) with the decoder g (normal), the prior T_#N with g (prior-flow), N(0, I) with the decoder g ∘ T
(in-decoder), and N(0, I) with a decoder as much wider as T has parameters (wider). T is the same coupling flow, cheap
in both directions. prior-flow and in-decoder are the same family of generative models, number for number; what differs
is the guide, Gaussian in z = T(u) or Gaussian in u. The primary measure is the test NLL, paired over seeds.

What theory predicts: if a flow prior is only more decoder, all three tie. But a Gaussian in u is, seen in z, a Gaussian
that T has bent alike for every x (Chen et al. 2017), while a Gaussian in z stays simple however T folds the space: the
guide of prior-flow need not follow the flow. So prior-flow should beat in-decoder by ELBO where T is far from affine,
and less so by NLL, and wider should gain little where the decoder is already strong.
"""

from __future__ import annotations

from dataclasses import replace

from flowvae.comparisons.engine.parameter_matching import count_parameters, widen_decoder
from flowvae.comparisons.engine.question import Question, flow_size
from flowvae.experiments.experiment import Experiment
from flowvae.flows import CouplingNSF
from flowvae.models import FlowDecoder
from flowvae.networks import MLP

__all__ = ["QUESTION"]


def _arms(base: Experiment) -> dict[str, Experiment]:
    steps, widths = flow_size(base)
    flow = CouplingNSF(2 * steps, widths)  # a coupling moves half of the code at a time
    arms = {"normal": base, "prior-flow": replace(base, prior=flow)}
    if isinstance(base.decoder, MLP):
        arms["in-decoder"] = replace(base, decoder=FlowDecoder(flow, base.decoder))
    arms["wider"] = widen_decoder(base, count_parameters(arms["prior-flow"]))
    return arms


QUESTION = Question(
    "capacity",
    __doc__,
    _arms,
    baseline="normal",
    pairs=(("prior-flow", "in-decoder"), ("prior-flow", "wider"), ("in-decoder", "wider")),
    data=("digits", "sprites", "pinwheel"),
    secondary=("elbo", "nll_ais", "effective_draws", "reconstruction", "kl", "active_units"),
    measures=("activity", "gaps"),
)
