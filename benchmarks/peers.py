"""The training step of `training_step.py` with other torch libraries, if they can build the same networks.

Equal in every arm: encoder and decoder modules and their seed, data, batches, one draw per data point, one fused Adam,
clipping by the norm of the whole gradient, one thread. The trainers of the libraries are not used: the step is a plain
loop, which cannot be slower.

normflows: the prior of a hand-written VAE with a Gaussian guide. Its masked networks begin with two linear layers
without an activation between them, so it has no network with a single hidden layer; in the cases `maf-64` and `nsf-64`,
with two layers of 64, number and shapes of the matrices are equal. Not equal: one ReLU per transform fewer; an index
permutation between transforms, where zuko reverses the order of the masks; the affine scale is a sigmoid, zuko's an
exponential; the smallest bin and slope of the spline. Its masked layers cannot read features of an encoder, so guides
with flows are not compared.

pythae: a whole model, `VAE` or `VAE_IAF` (`static`: the flow does not read the data point). Its prior is N(0, I), and
its likelihood of binary data is a cross-entropy of probabilities, so it has only the cases with prior `normal` and a
Bernoulli likelihood. Not equal: `VAE` computes the KL term in closed form, which is less work than at the draw; the
decoder ends in a sigmoid, of which the loss takes the logarithm; densities leave out constants; the flow reverses its
order by copying.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.flows.spec import NetworkFlowSpec
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE

Made = tuple[
    list[nn.Parameter], Callable[[Tensor], Tensor]
]  # the parameters, and the mean loss of a batch in nats per data point


def available() -> list[str]:
    """Return the names of the installed libraries."""
    return [name for name in ("normflows", "pythae") if find_spec(name)]


def normflows(
    model: VAE,
    guide: AmortizedGuide,
    prior: NetworkFlowSpec,
    bins: int | None,
    log_likelihood: Callable[[Tensor, Tensor], Tensor],
) -> Made:
    """Build a hand-written VAE with a prior of normflows.

    Args:
        model: the model whose decoder is used.
        guide: a guide with a Gaussian head.
        prior: settings of the prior, with two hidden layers of equal width.
        bins: number of bins of splines; None: affine transforms.
        log_likelihood: function of logits (B, D) and data (B, D), returning log p(x | z), shape (B,).
    """
    import normflows as nf
    from normflows.flows.neural_spline.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressive as Spline

    features = guide.head.loc.out_features
    _, hidden = prior.hidden_features
    layers: list[nn.Module] = []
    for _ in range(prior.transforms):
        settings: dict[str, Any] = {"num_blocks": 1, "use_residual_blocks": False}
        if bins is None:
            layer = nf.flows.MaskedAffineAutoregressive(features, hidden, **settings)
        else:
            layer = Spline(features, hidden, num_bins=bins, tails="linear", tail_bound=5.0, **settings)
        # densities use `inverse`, which takes one pass per dimension unless the layer is reversed
        layers += [nf.flows.Permute(features, mode="shuffle"), nf.flows.Reverse(layer)]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), layers)

    def loss(x: Tensor) -> Tensor:
        h = guide.encoder(x)
        scale = guide.head.log_scale(h).exp()
        q = torch.distributions.Normal(guide.head.loc(h), scale, validate_args=False)
        z = q.rsample()
        return (q.log_prob(z).sum(-1) - log_likelihood(model.decoder(z), x) - flow.log_prob(z)).mean()

    return [*model.decoder.parameters(), *guide.parameters(), *flow.parameters()], loss


def pythae(model: VAE, guide: AmortizedGuide, data: int, flow: NetworkFlowSpec | None) -> Made:
    """Build pythae's VAE, or its VAE with a static inverse autoregressive flow in the guide.

    Args:
        model: the model whose decoder is used.
        guide: the guide whose encoder and Gaussian layers are used.
        data: dimension of the data.
        flow: settings of the guide's flow, with hidden layers of equal width; None: a Gaussian guide.
    """
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAE_IAF, VAE_IAF_Config, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    gaussian = getattr(guide.head, "base", guide.head)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.loc, self.log_variance = guide.encoder, gaussian.loc, gaussian.log_scale

        def forward(self, x: Tensor) -> Any:
            h = self.hidden(x)
            return ModelOutput(embedding=self.loc(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.logits = model.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.logits(z)))

    common = {"input_dim": (data,), "latent_dim": gaussian.loc.out_features, "reconstruction_loss": "bce"}
    if flow is None:
        whole = PythaeVAE(VAEConfig(**common), encoder=Encoder(), decoder=Decoder())
    else:
        made = {"n_hidden_in_made": len(flow.hidden_features), "hidden_size": flow.hidden_features[0]}
        settings = VAE_IAF_Config(**common, n_made_blocks=flow.transforms, **made)
        whole = VAE_IAF(settings, encoder=Encoder(), decoder=Decoder())
    return list(whole.parameters()), lambda x: whole({"data": x}).loss
