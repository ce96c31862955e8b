"""The stages of a training: the VAE, a second prior fitted to its codes, everything fine-tuned together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, check_int, shown
from flowvae.core.parts import PriorSpec
from flowvae.inference import Training
from flowvae.models import check_prior
from flowvae.networks import eval_mode

__all__ = ["SecondStage", "freeze_except_prior", "load_stage_weights"]

DIRECTIONS = ("reverse", "forward", "both")  # of the KL divergence of a distillation


@dataclass(frozen=True)
class SecondStage:
    """Second stage: another prior, fitted to the aggregated posterior q̄ of a VAE with frozen encoder and decoder.

    Every batch draws new codes z ~ q(z | x). With encoder and decoder frozen, the ELBO is E_q̄[log p(z)] plus a
    constant, so maximizing it fits the prior by maximum likelihood, with early stopping on codes of validation data:
    ELBO_2 − ELBO_1 = E_q̄[log p_2 − log p_1] = KL(q̄‖p_1) − KL(q̄‖p_2). A prior that has an `objective` is trained with
    it instead.

    Args:
        prior: the second p(z). One without parameters, such as N(0, I), needs `fine_tune`.
        inference: settings of the training.
        fine_tune: whether encoder, decoder and prior are trained together afterwards, with the same settings, which
            makes three stages. With a prior without parameters there are two, and the second continues the training of
            the VAE, as a control for the longer training.
        distill: fit the prior to that of the first stage instead of the codes: "reverse" minimizes KL(s‖t) of student
            s and teacher t, "forward" KL(t‖s), "both" their sum; see `Distillation`. None: fit it to the codes.
        teacher_draws: number of cached draws of the teacher for "forward" and "both", and of the draws of each
            validation.

    Raises:
        FlowvaeError: for a prior that cannot be fitted or distilled in this way, and for invalid settings.

    References:
        Dai & Wipf (2019), "Diagnosing and Enhancing VAE Models".
    """

    prior: PriorSpec
    inference: Training = field(default_factory=Training)
    fine_tune: bool = False
    distill: str | None = field(default=None, metadata={"omit_default": True})
    teacher_draws: int = field(default=20_000, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        check_prior("SecondStage.prior", self.prior)
        check_bool(self, "fine_tune")
        if not self.prior.trainable and not self.fine_tune:
            raise FlowvaeError(
                f"SecondStage.prior = {shown(self.prior)}: has nothing to fit; use Mixture() or a flow, or "
                "fine_tune=True to continue the training of the VAE."
            )
        if self.distill is not None:
            check_choice(self, "distill", DIRECTIONS)
        check_int(self, "teacher_draws")
        if self.distill and self.fine_tune:
            raise FlowvaeError(
                f"SecondStage.distill = {self.distill} with fine_tune = true: the teacher of a distilled prior must "
                "stay fixed; use fine_tune=False."
            )
        if self.distill and not self.prior.tractable:
            raise FlowvaeError(
                f"SecondStage.distill = {self.distill} with {shown(self.prior)}: needs the density of the student; use "
                "a flow, such as IAF()."
            )
        if self.distill and self.prior.why_not_joint:
            raise FlowvaeError(
                f"SecondStage.distill = {self.distill} with {shown(self.prior)}: is trained by a loss of its own, so "
                "it cannot be a student; use a flow, such as IAF() or CouplingNSF()."
            )
        if self.distill in ("reverse", "both") and "posterior" not in self.prior.roles:
            raise FlowvaeError(
                f"SecondStage.distill = {self.distill} with {shown(self.prior)}: cannot be trained through its draws; "
                'use distill="forward", or a flow such as IAF() or CouplingNSF().'
            )
        if self.fine_tune and (why := self.prior.why_not_joint):
            raise FlowvaeError(
                f"SecondStage.fine_tune = true with {shown(self.prior)}: cannot be trained jointly: {why}; use "
                "fine_tune=False."
            )
        if why := self.prior.why_not_second_stage:
            raise FlowvaeError(
                f"SecondStage.prior = {shown(self.prior)}: cannot be fitted to the codes of a trained VAE: {why}; "
                "train it jointly, as Experiment.prior."
            )
        if not isinstance(self.inference, Training):
            raise FlowvaeError(f"SecondStage.inference = {shown(self.inference)}: must be a Training object.")

    @property
    def before(self) -> SecondStage | None:
        """The fit of the prior that precedes fine-tuning; None if the VAE itself precedes it."""
        return replace(self, fine_tune=False) if self.fine_tune and self.prior.trainable else None

    @property
    def follows(self) -> str:
        """Name of the directory of the previous stage, inside that of this one."""
        return "prior-fit" if self.before else "first-stage"


def load_stage_weights(pair: tuple[nn.Module, nn.Module], earlier: tuple[nn.Module, nn.Module], prior: bool) -> None:
    """Copy the weights of an earlier stage into a model and guide; those of the prior only if `prior` is true."""
    (model, guide), (earlier_model, earlier_guide) = pair, earlier
    guide.load_state_dict(earlier_guide.state_dict())
    weights = earlier_model.state_dict()
    taken = {name: value for name, value in weights.items() if prior or not name.startswith("prior.")}
    model.load_state_dict(model.state_dict() | taken)


@contextmanager
def freeze_except_prior(pair: tuple[Any, nn.Module]) -> Iterator[None]:
    """Freeze all parts of the pair except the prior inside the block, and put them into evaluation mode."""
    model, guide = pair
    of_prior = set(model.prior.parameters())
    trained = [p for part in (model, guide) for p in part.parameters() if p.requires_grad and p not in of_prior]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with eval_mode(model.decoder, model.likelihood, guide):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
