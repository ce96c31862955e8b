"""Losses of a second stage other than the ELBO: distillation, and the objectives of priors that have one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from zuko.lazy import LazyDistribution

from flowvae.data import Batch, Dataset, batch_of
from flowvae.experiments.assemble import ModelGuide
from flowvae.experiments.distillation import Distillation
from flowvae.experiments.experiment import Experiment
from flowvae.inference import Training, choose_device

__all__ = ["losses_of_prior"]

Loss = Callable[[Batch], Tensor]


def losses_of_prior(
    stage: Experiment, data: Dataset, pair: ModelGuide, first_prior: LazyDistribution | None
) -> tuple[Loss | None, Loss | None]:
    """Return the training and the validation loss of a second stage; None stands for the negative ELBO.

    Args:
        stage: the experiment with this second stage.
        data: data of the experiment.
        pair: model and guide, of which only the prior is trained.
        first_prior: the prior of the previous stage, the teacher of a distillation.
    """
    second, prior = stage.second_stage, pair.model.prior
    if second is not None and second.distill and first_prior is not None:
        device = choose_device(stage.last_training.device)
        conditions = [_read_by_prior(pair, batch_of(data, stage.condition, split)) for split in ("train", "valid")]
        distillation = Distillation(
            first_prior.to(device),
            prior.to(device),
            second.distill,
            second.teacher_draws,
            stage.seed,
            *(given[0].to(device) if given else None for given in conditions),
        )
        return lambda batch: distillation.loss(batch, *_read_by_prior(pair, batch)), distillation.validate
    objective, validate = (getattr(prior, name, None) for name in ("objective", "validate"))
    return (
        None if objective is None else partial(_of_codes, pair, objective),
        None if validate is None else partial(_of_all_codes, pair, validate, stage.last_training),
    )


def _of_codes(pair: ModelGuide, objective: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Evaluate the objective of a prior on newly drawn codes of a batch."""
    return objective(pair.guide.posterior(*batch.args).sample(), *_read_by_prior(pair, batch))


def _of_all_codes(pair: ModelGuide, validate: Callable[..., Tensor], training: Training, valid: Batch) -> Tensor:
    """Evaluate the validation loss of a prior on codes of all data, `validation_draws` per data point."""
    drawn: list[tuple[Tensor, ...]] = []
    for batch in valid.split(training.batch_size):
        codes = pair.guide.posterior(*batch.args).sample((training.validation_draws,))
        conditions = [c.expand(len(codes), *c.shape) for c in _read_by_prior(pair, batch)]
        drawn.append(tuple(part.flatten(0, 1) for part in (codes, *conditions)))
    return validate(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))


def _read_by_prior(pair: ModelGuide, batch: Batch) -> tuple[Tensor, ...]:
    """Return the condition of a batch as the prior reads it; () if it reads none."""
    return pair.model.given("prior", batch.c)
