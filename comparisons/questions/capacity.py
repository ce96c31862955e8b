"""Is a flow prior just more decoder?

Four arms: N(0, I) with the decoder g (normal), the prior T_#N with g (prior-flow), N(0, I) with the decoder g ∘ T
(in-decoder), and N(0, I) with a decoder widened by the number of parameters of T (wider). T is the same coupling flow,
cheap in both directions. prior-flow and in-decoder are the same family of generative models with the same parameters.
They differ in the guide, which is Gaussian in z = T(u) or Gaussian in u. The primary measure is the test NLL, paired
over seeds.

What theory predicts: if a flow prior is only more decoder, all three tie. But a Gaussian in u is in z a Gaussian warped
by T in the same way for every x (Chen et al. 2017), while a Gaussian in z stays simple for any T, so the guide of
prior-flow need not follow the flow. So prior-flow should beat in-decoder in ELBO where T is far from affine, and by
less in NLL. wider should gain little where the decoder is already strong.
"""

from __future__ import annotations

from dataclasses import replace

from flowvae.comparisons.engine.arm_sizes import flow_size
from flowvae.comparisons.engine.parameter_matching import count_parameters, widen_decoder
from flowvae.comparisons.engine.question import Question
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.flows import CouplingNSF
from flowvae.models import FlowDecoder

__all__ = ["QUESTION"]


def _arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    steps, widths = flow_size(data)
    flow = CouplingNSF(2 * steps, widths)  # a coupling transforms half of the code at a time
    with_prior = replace(base, prior=flow)
    return {
        "normal": base,
        "prior-flow": with_prior,
        "in-decoder": replace(base, decoder=FlowDecoder(flow, base.decoder)),
        "wider": widen_decoder(base, data, count_parameters(with_prior, data)),
    }


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
