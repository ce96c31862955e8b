"""A user-defined loss as the objective of a training."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.seeds import derive, seeded
from flowvae.data.batch import Batch
from flowvae.inference.objectives.elbo import ELBO
from flowvae.inference.optim import JointAdam, NonFiniteError
from flowvae.inference.training import Training
from flowvae.networks import eval_mode

__all__ = ["OwnLoss", "check_own_loss"]


def check_own_loss(settings: Training, label: str = "a custom objective") -> None:
    """Refuse settings that only apply to the ELBO.

    Args:
        settings: settings of a training on a custom loss.
        label: name of the loss in messages.

    Raises:
        FlowvaeError: for one of these settings.
    """
    for name, neutral in (("kl_weight", 1), ("kl_warmup", 0), ("tempering", 0), ("particles", 1)):
        if (value := getattr(settings, name)) != neutral:
            raise FlowvaeError(f"{name} = {value:g} with {label}: only applies to the ELBO; use {neutral}.")
    if settings.objective != ELBO():
        raise FlowvaeError(f"objective = {shown(settings.objective)} with {label}: there is one loss; use the default.")


class OwnLoss:
    """Steps on a loss that is a function of the batch, such as a contrastive loss.

    Args:
        loss: function of a batch that returns the mean over its data points in nats, a scalar with gradients.
        pair: the modules whose parameters are trained.
        optim: their optimizer.
        settings: settings of the training.
        rows: data points of a full batch.
        validation: function of the whole validation data that returns the loss to validate by; None: the mean of
            `loss` over batches.

    Raises:
        FlowvaeError: for settings that only apply to the ELBO.
    """

    weight = 1.0
    annealed = False
    compiled_since: int | None = None

    def __init__(
        self,
        loss: Callable[[Batch], Tensor],
        pair: nn.ModuleDict,
        optim: JointAdam,
        settings: Training,
        rows: int,
        validation: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        check_own_loss(settings)
        self.loss = loss
        self.pair = pair
        self.optim = optim
        self.rows = rows
        self.validation = validation

    def start(self, epoch: int) -> None:
        """Do nothing, since the loss does not depend on the epoch."""

    def step(self, batch: Batch) -> float:
        """Take one step; return the loss of the batch in nats."""
        # the last, smaller batch of an epoch has a smaller weight
        loss = self._checked(self.loss, batch) * (len(batch) / self.rows)
        if not loss.isfinite():
            raise NonFiniteError(f"the loss is {loss.item()}")
        if not loss.requires_grad:
            raise FlowvaeError(
                "objective: the loss depends on no parameter that is trained; use those of model or guide."
            )
        loss.backward()
        self.optim(self.optim.parameters.values())
        self.pair.zero_grad()
        return loss.item()

    def validate(self, valid: Batch, seed: int) -> float:
        """Negative validation loss, in evaluation mode: by default, the mean over batches of the training's size."""
        total = 0.0
        with eval_mode(self.pair), seeded(derive(seed, "validation")):
            if self.validation is not None:
                return -self._checked(self.validation, valid).item()
            for batch in valid.split(self.rows):
                total -= self._checked(self.loss, batch).item() * len(batch)
        return total / len(valid)

    def _checked(self, function: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        loss = function(batch)
        if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
            raise FlowvaeError(f"objective: returned {shown(loss)}; must be a scalar tensor, the mean over the batch.")
        return loss
