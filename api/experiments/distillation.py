"""Distillation: a prior with fast draws, the student, is fitted to the density of a slow one, the teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Size, Tensor
from zuko.lazy import LazyDistribution

from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch
from flowvae.flows.pyro_adapter import to_pyro

__all__ = ["Distillation"]

BLOCK = 4096  # draws of the teacher at a time


class Distillation:
    """KL divergences in nats between a student s(z) and a teacher t(z), both priors, as training losses.

    "reverse" is KL(s‖t) = E_s[log s − log t] over draws of the student, each with its density under both priors; this
    takes one pass each for an inverse autoregressive student of an autoregressive teacher. It seeks modes. "forward" is
    KL(t‖s) = E_t[log t − log s] over cached draws of the teacher; it covers all of t. "both" is their sum.

    Args:
        teacher: the prior to imitate; it is frozen and put into evaluation mode.
        student: the prior that is fitted.
        direction: "reverse", "forward" or "both".
        draws: number of cached teacher draws, for training and validation each.
        seed: seed of these draws.
        train: conditions (N, C) of the training data, if both priors read one.
        valid: conditions (N, C) of the validation data.

    References:
        van den Oord et al. (2018), "Parallel WaveNet: Fast High-Fidelity Speech Synthesis".
    """

    def __init__(
        self,
        teacher: LazyDistribution,
        student: LazyDistribution,
        direction: str,
        draws: int,
        seed: int,
        train: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        self.teacher, self.student, self.direction = teacher.eval().requires_grad_(False), student, direction
        self.draws, self._conditions = draws, valid
        self._train = self._valid = _Draws(None, Tensor(), Tensor())
        if direction != "reverse":
            self._train = _draw(teacher, draws, train, derive(seed, "teacher"))
            self._valid = _draw(teacher, draws, valid, derive(seed, "teacher, validation"))

    def loss(self, batch: Batch, c: Tensor | None = None) -> Tensor:
        """Estimate the divergence from one draw per data point of a batch.

        Args:
            batch: a batch of data, of which only the size is used.
            c: conditions of the batch, if the priors read them.
        """
        parts = []
        if self.direction != "forward":
            parts.append(self._reverse(len(batch), c))
        if self.direction != "reverse":
            index = torch.randint(len(self._train.z), (len(batch),))
            parts.append(self._forward(self._train.at(index)))
        return torch.stack(parts).sum()

    def validate(self, valid: Batch) -> Tensor:
        """Estimate the divergence from `draws` draws; those of the teacher differ from the training draws.

        Args:
            valid: validation data; not used.
        """
        parts = []
        for numbers in torch.arange(self.draws).split(BLOCK):
            share = len(numbers) / self.draws
            if self.direction != "forward":
                parts.append(share * self._reverse(len(numbers), _some(self._conditions, len(numbers))))
            if self.direction != "reverse":
                parts.append(share * self._forward(self._valid.at(numbers)))
        return torch.stack(parts).sum()

    def _reverse(self, count: int, c: Tensor | None) -> Tensor:
        student = to_pyro(self.student(c))
        z = student.rsample(Size(() if c is not None else (count,)))
        return (student.log_prob(z) - self.teacher(c).log_prob(z)).mean()

    def _forward(self, drawn: _Draws) -> Tensor:
        return (drawn.log_density - self.student(drawn.c).log_prob(drawn.z)).mean()


class _Draws(NamedTuple):
    """Draws of a teacher with their log-densities and their conditions."""

    c: Tensor | None
    z: Tensor
    log_density: Tensor

    def at(self, index: Tensor) -> _Draws:
        index = index.to(self.z.device)
        return _Draws(None if self.c is None else self.c[index], self.z[index], self.log_density[index])


@torch.no_grad()
def _draw(teacher: LazyDistribution, draws: int, conditions: Tensor | None, seed: int) -> _Draws:
    found = []
    with seeded(seed):
        for start in range(0, draws, BLOCK):
            count = min(BLOCK, draws - start)
            c = _some(conditions, count)
            z = to_pyro(teacher(c)).sample(Size(() if c is not None else (count,)))
            found.append(_Draws(c, z, teacher(c).log_prob(z)))
    together = torch.cat([part.c for part in found if part.c is not None]) if conditions is not None else None
    return _Draws(together, torch.cat([part.z for part in found]), torch.cat([part.log_density for part in found]))


def _some(conditions: Tensor | None, count: int) -> Tensor | None:
    """Draw conditions from those of the data, with replacement."""
    return None if conditions is None else conditions[torch.randint(len(conditions), (count,)).to(conditions.device)]
