"""A guide that starts from the encoder's answer and improves it on the datum before it draws."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import MOST_LAYERS, check_bool, check_choice, check_int, check_number
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import Cost
from flowvae.guides.amortized import AmortizedGuide, GuideSpec, LogJoint
from flowvae.guides.gaussian import BASES
from flowvae.guides.local_parameters import distribution_at, push, sobol_normal
from flowvae.networks import eval_mode

__all__ = ["SemiAmortized", "SemiAmortizedGuide"]


@dataclass(frozen=True)
class SemiAmortized(GuideSpec):
    """q(z | x) is a Gaussian whose parameters took some steps up the ELBO of x, from where the encoder put them.

    λ_0 = encoder(x), λ_{t+1} = λ_t + α ∇_λ ELBO(x; λ_t), q(z | x) = q(z; λ_T), with λ the location, the log-scale
    and, of a full-rank base, the lower triangle.

    A *pass* of `cost` is one step, which takes the decoder, its gradient and, when training at second order, the
    gradient of that.

    Args:
        base: "gaussian" (independent dimensions) or "full-rank".
        steps: T, in training and afterwards.
        learning_rate: α.
        draws: from q a datum and step, evenly spread (`sobol_normal`). Their noise is drawn when the guide is built,
            another one for each step, and is the same for all data and for ever: q(z | x) is a function of x alone.
        clip: the largest norm that the gradient of a datum keeps; none: no clipping.
        second_order: whether training differentiates through the steps, so that the encoder learns to start them and
            the model feels what it does to them. False: the steps count as constants added to the encoder's answer,
            which is faster.

    References:
        Kim, Wiseman, Miller, Sontag & Rush (2018), "Semi-Amortized Variational Autoencoders".
    """

    title: ClassVar[str] = "Gaussian that climbs the ELBO of its datum"
    paper: ClassVar[str] = "Kim et al. 2018"

    base: str = "gaussian"
    steps: int = 5
    learning_rate: float = 0.05
    draws: int = 4
    clip: float | None = 5.0
    second_order: bool = True

    def __post_init__(self) -> None:
        check_choice(self, "base", BASES)
        check_int(self, "steps", most=MOST_LAYERS)
        check_number(self, "learning_rate")
        check_int(self, "draws", most=2**30)  # of a Sobol sequence
        check_number(self, "clip", optional=True)
        check_bool(self, "second_order")

    def build(self, features: int, context: int) -> LazyDistribution:
        return BASES[self.base]().build(features, context)

    def guide(self, encoder: nn.Module, features: int, context: int, log_joint: LogJoint) -> AmortizedGuide:
        return SemiAmortizedGuide(encoder, self.build(features, context), features, log_joint, self)

    def cost(self, features: int) -> Cost:
        return Cost(self.steps, self.steps, self.steps)


class SemiAmortizedGuide(AmortizedGuide):
    """The guide of `SemiAmortized`, for any head: of a flow too, where λ is what the head computes from x alone.

    So of a static flow the Gaussian underneath climbs, of a conditioned one the flow's context (or the flow's
    parameters themselves, where the family makes them of the context by one layer) does too; see `local_parameters`.

    Args:
        encoder: a network (..., D) → (..., context).
        head: a lazy distribution over the code given the encoder's features.
        features: dimension of the code.
        log_joint: takes data (N, D) and codes (S, N, latent), gives log p(x, z) in nats, shape (S, N). What is inside
            it is no part of this guide: neither of its parameters nor of its state. A guide in evaluation mode runs
            it in evaluation mode too.
        settings: of the steps.
    """

    noise: Tensor

    def __init__(
        self, encoder: nn.Module, head: LazyDistribution, features: int, log_joint: LogJoint, settings: SemiAmortized
    ) -> None:
        super().__init__(encoder, head)
        self.log_joint = log_joint
        self.settings = settings
        like = next(head.parameters())
        seeds = torch.randint(2**31, (settings.steps,)).tolist()
        noise = [sobol_normal(settings.draws, features, seed, like) for seed in seeds]
        self.register_buffer("noise", torch.stack(noise))

    def posterior(self, x: Tensor) -> torch.distributions.Distribution:
        """q(z | x) for data of shape (N, D), also where gradients are switched off."""
        return to_pyro(distribution_at(self.head, *self.local(x)))

    def local(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and λ_T."""
        training = torch.is_grad_enabled()
        features, local = super().local(x)
        for noise in self.noise:
            with torch.enable_grad():
                # outside of training the steps have no past to remember
                here = {name: value if training else value.detach() for name, value in local.items()}
                here = {name: value if value.requires_grad else value.requires_grad_() for name, value in here.items()}
                gradients = self._gradients(x, features, here, noise, training and self.settings.second_order)
            rate = self.settings.learning_rate
            local = {name: local[name] + rate * gradient for name, gradient in gradients.items()}
        return features, local

    def _gradients(
        self, x: Tensor, features: Tensor, local: dict[str, Tensor], noise: Tensor, second_order: bool
    ) -> dict[str, Tensor]:
        """∇_λ of the ELBO of each datum, clipped datum by datum."""
        z, log_q = push(distribution_at(self.head, features, local), noise)
        with nullcontext() if self.training else eval_mode(self.log_joint):
            log_joint = self.log_joint(x, z)
        elbo = (log_joint - log_q).mean(0).sum()  # a sum: the gradient of each datum is its own
        found = torch.autograd.grad(
            elbo, list(local.values()), create_graph=second_order, retain_graph=True, materialize_grads=True
        )
        if self.settings.clip is None:
            return dict(zip(local, found, strict=True))
        # the norm over all that belongs to a datum; its own gradient is not finite at zero
        square = torch.cat([gradient.flatten(1) for gradient in found], dim=1).square().sum(1)
        tiny = torch.finfo(x.dtype).tiny
        factor = (self.settings.clip / (square + tiny).sqrt()).clamp_max(1)
        return {
            name: gradient * factor.reshape(-1, *[1] * (gradient.dim() - 1))
            for name, gradient in zip(local, found, strict=True)
        }
