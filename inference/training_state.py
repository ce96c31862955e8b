"""The state of a training after some epochs, and its checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowvae.core.errors import DamagedError, FlowvaeError, shown
from flowvae.inference.checkpoint import load_checkpoint, save_checkpoint
from flowvae.inference.optim import JointAdam
from flowvae.inference.training import Training

__all__ = ["TrainingState", "best_weights"]


@dataclass
class TrainingState:
    """Weights, optimizer and history of a training after some epochs.

    Args:
        pair: the modules "model" and "guide", with their last weights.
        optim: their optimizer.
        best: state dict of the pair with its best weights, initially the initial ones.
        epoch: number of epochs taken.
        best_epoch: epoch of the best weights; −1: none yet.
        best_elbo: its validation ELBO in nats per data point.
        stopped: `Training.epochs` of a training stopped by a callback; 0: not stopped.
        compiled_since: first epoch with compiled steps; None: none yet.
        rows: one dictionary per epoch.
    """

    pair: nn.ModuleDict
    optim: JointAdam
    best: dict[str, Tensor] = field(init=False)
    epoch: int = 0
    best_epoch: int = -1
    best_elbo: float = -math.inf
    stopped: int = 0
    compiled_since: int | None = None
    rows: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._keep()

    @property
    def elbos(self) -> list[float]:
        """Validation ELBO of each epoch."""
        return [row["valid_elbo"] for row in self.rows]

    def add(self, row: dict[str, float], eligible: bool) -> None:
        """Add an epoch; keep its weights if it is eligible and has the highest validation ELBO."""
        self.rows.append(row)
        if eligible and self.best_elbo < row["valid_elbo"] < math.inf:
            self.best_epoch, self.best_elbo = self.epoch, row["valid_elbo"]
            self._keep()
        self.epoch += 1

    def _keep(self) -> None:
        self.best = {name: value.detach().clone() for name, value in self.pair.state_dict().items()}

    def has_ended(self, settings: Training) -> bool:
        """Whether the training has ended: all epochs are taken, patience has run out, or a callback stopped it.

        A training stopped by a callback continues if given more epochs.
        """
        impatient = self.best_epoch >= 0 and self.epoch - 1 - self.best_epoch >= settings.patience
        return self.epoch >= settings.epochs or impatient or self.stopped >= settings.epochs

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint; a crash keeps the earlier one.

        Args:
            path: the file.
            identity: description of the training as plain values, compared by `restore`.
        """
        tensors = {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {f"last/{name}": value for name, value in self.pair.state_dict().items()}
        tensors |= {f"adam/{name}": value for name, value in self.optim.state().items()}
        progress = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            # infinity is not JSON
            "best_elbo": self.best_elbo if math.isfinite(self.best_elbo) else None,
            "stopped": self.stopped,
            "compiled_since": self.compiled_since,
            "rows": self.rows,
        }
        save_checkpoint(path, tensors, {**identity, "progress": progress})

    def restore(
        self, path: Path, identity: dict[str, Any], settings: Training, same: Callable[[Any, Any], bool]
    ) -> bool:
        """Restore the state from a checkpoint.

        Args:
            path: the file.
            identity: description of the training, as in `save`.
            settings: settings of the training.
            same: whether the stored and the given facts describe the same pair.

        Returns:
            Whether the identity of the checkpoint differs, as in an extended training.

        Raises:
            DamagedError: if the file is truncated, altered or holds NaN.
            FlowvaeError: if it belongs to another pair, other settings or other data.
        """
        tensors, stored = load_checkpoint(path)
        best_weights(tensors)  # raises if one is NaN
        given = json.loads(json.dumps(identity))  # as in the file, with tuples as lists
        if not same(stored["settings"], given["settings"]):
            raise FlowvaeError(
                f"{path}: belongs to other settings than those given; continue with the settings stored beside it, "
                "or name another directory."
            )
        for name in sorted(given.keys() - {"settings", "training"}):
            if stored.get(name) != given[name]:
                raise FlowvaeError(
                    f"{path}: its training had {name} = {shown(stored.get(name))}, not {shown(given[name])}; "
                    "continue with that, or name another file."
                )
        settings.check_extends(stored.get("training", {}), stored["progress"]["epoch"])
        device = next(self.pair.parameters()).device

        def part(prefix: str) -> dict[str, Tensor]:
            chosen = {name: value for name, value in tensors.items() if name.startswith(prefix)}
            return {name.removeprefix(prefix): value.to(device) for name, value in chosen.items()}

        try:
            self.pair.load_state_dict(part("last/"))
            # Adam counts its steps on the device of the parameters when it is fused
            self.optim.restore(part("adam/"))
        except (RuntimeError, KeyError) as error:
            raise FlowvaeError(
                f"{path}: holds another model or guide ({str(error).splitlines()[0]}); continue with its own "
                "pair, or name another file."
            ) from None
        progress = dict(stored["progress"])
        if progress["best_elbo"] is None:
            progress["best_elbo"] = -math.inf
        for name, value in progress.items():
            setattr(self, name, value)
        self.best = part("best/")
        return any(stored[name] != value for name, value in given.items())


def best_weights(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Select the best state dicts of "model" and "guide" from the tensors of a checkpoint of `fit`.

    Raises:
        DamagedError: if one of them contains NaN.
    """
    found: dict[str, dict[str, Tensor]] = {"model": {}, "guide": {}}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        if value.isnan().any():
            raise DamagedError(f"the checkpoint's {key} holds nan; restore the checkpoint, or train again.")
        if group == "best":
            part, _, name = name.partition(".")
            found[part][name] = value
    return found
