"""Semi-amortized guides: gradient steps on the ELBO of each data point, starting from the encoder's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import MOST_LAYERS, check_bool, check_choice, check_int, check_number
from flowvae.core.parts import Condition, Cost, GuideSpec
from flowvae.data.batch import Batch
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.guides.amortized import AmortizedGuide
from flowvae.guides.gaussian import BASES
from flowvae.guides.local_parameters import distribution_at, push, sobol_normal
from flowvae.networks import eval_mode

__all__ = ["LogJoint", "SemiAmortized", "SemiAmortizedGuide"]

LogJoint = Callable[[Batch, Tensor], Tensor]  # from a batch of N and codes (S, N, D) to log p(x, z), shape (S, N)


@dataclass(frozen=True)
class SemiAmortized(GuideSpec, name="semi-amortized"):
    """Gaussian q(z | x), refined by gradient steps on the ELBO of x, starting from the encoder's output.

    λ_0 = encoder(x), λ_{t+1} = λ_t + α ∇_λ ELBO(x; λ_t), q(z | x) = q(z; λ_T), where λ are the location, the
    log-scale and, for a full-rank base, the lower triangle.

    A *pass* of `cost` is one step, which takes the decoder, its gradient and, in second-order training, the gradient
    of that gradient.

    Args:
        base: "gaussian" (independent dimensions) or "full-rank".
        steps: T, in training and afterwards.
        learning_rate: α.
        draws: number of draws from q per data point and step, quasi-random (`sobol_normal`). The noise of each step is
            drawn when the guide is built, and then fixed for all data points: q(z | x) is a function of x alone.
        clip: maximum norm of the gradient of a data point; none: no clipping.
        second_order: whether training backpropagates through the steps, to the encoder and the model. False: the steps
            are constants added to the encoder's output, which is faster.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Kim, Wiseman, Miller, Sontag & Rush (2018), "Semi-Amortized Variational Autoencoders".
    """

    title: ClassVar[str] = "Gaussian refined by gradient steps on the ELBO"
    paper: ClassVar[str] = "Kim et al. 2018"
    follows_model: ClassVar[bool] = True

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
        check_int(self, "draws", most=2**30)  # length of a Sobol sequence
        check_number(self, "clip", optional=True)
        check_bool(self, "second_order")

    def build(self, features: int, context: int) -> LazyDistribution:
        return BASES[self.base]().build(features, context)

    def improve(self, guide: Any, features: int, log_joint: LogJoint) -> Any:
        return SemiAmortizedGuide(
            guide.encoder, guide.head, features, log_joint, self, guide.condition, guide.standardize
        )

    def cost(self, features: int) -> Cost:
        return Cost(self.steps, self.steps, self.steps)


class SemiAmortizedGuide(AmortizedGuide):
    """The guide of `SemiAmortized` for any head, where λ are the head's `local_parameters`.

    With a static flow, the steps change the Gaussian base. With a conditioned flow they also change the flow's context
    (or the flow's parameters themselves, if the family computes them from the context by one layer).

    Args:
        encoder: a network (N, *event) → (N, *features).
        head: a lazy distribution over the code given the encoder's features.
        features: size of the code.
        log_joint: function of a batch of N data points and codes (S, N, features), returning log p(x, z) in nats,
            (S, N). Its modules are not part of this guide: their parameters are not in the guide's parameters or state.
            The steps run them in evaluation mode.
        settings: settings of the steps.
        condition: which of encoder and head read a condition; None: no condition.
        standardize: a module that is applied to a condition first; None: it is read unchanged.
    """

    noise: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: LazyDistribution,
        features: int,
        log_joint: LogJoint,
        settings: SemiAmortized,
        condition: Condition | None = None,
        standardize: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, head, condition, standardize=standardize)
        self.log_joint = log_joint
        self.settings = settings
        like = next(head.parameters())
        seeds = torch.randint(2**31, (settings.steps,)).tolist()
        noise = [sobol_normal(settings.draws, features, seed, like) for seed in seeds]
        self.register_buffer("noise", torch.stack(noise))

    def posterior(self, x: Tensor, c: Tensor | None = None) -> torch.distributions.Distribution:
        """Compute q(z | x) for data of shape (N, *event); also works with gradients disabled."""
        return to_pyro(distribution_at(self.head, *self.local(x, c)))

    def local(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the head's inputs and the refined parameters λ_T, for data (N, *event)."""
        training = torch.is_grad_enabled()
        batch = Batch(x, c)
        features, local = super().local(x, c)
        for noise in self.noise:
            with torch.enable_grad():
                # without gradients, a step does not need the graph of the earlier ones
                here = {name: value if training else value.detach() for name, value in local.items()}
                here = {name: value if value.requires_grad else value.requires_grad_() for name, value in here.items()}
                gradients = self._gradients(batch, features, here, noise, training and self.settings.second_order)
            rate = self.settings.learning_rate
            local = {name: local[name] + rate * gradient for name, gradient in gradients.items()}
        return features, local

    def _gradients(
        self, batch: Batch, features: Tensor, local: dict[str, Tensor], noise: Tensor, second_order: bool
    ) -> dict[str, Tensor]:
        """Compute ∇_λ of the ELBO of each data point, each clipped by its own norm."""
        z, log_q = push(distribution_at(self.head, features, local), noise)
        with eval_mode(self.log_joint):  # intermediate codes must not enter batch statistics
            log_joint = self.log_joint(batch, z)
        elbo = (log_joint - log_q).mean(0).sum()  # a sum: each data point contributes to its own gradient only
        found = torch.autograd.grad(
            elbo, list(local.values()), create_graph=second_order, retain_graph=True, materialize_grads=True
        )
        if self.settings.clip is None:
            return dict(zip(local, found, strict=True))
        # the norm over all parameters of a data point; `tiny` because its gradient is not finite at zero
        square = torch.cat([gradient.flatten(1) for gradient in found], dim=1).square().sum(1)
        tiny = torch.finfo(features.dtype).tiny
        factor = (self.settings.clip / (square + tiny).sqrt()).clamp_max(1)
        return {
            name: gradient * factor.reshape(-1, *[1] * (gradient.dim() - 1))
            for name, gradient in zip(local, found, strict=True)
        }
