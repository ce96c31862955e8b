"""Trackers, which receive the rows of a training while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

from flowvae.core.errors import FlowvaeError

__all__ = ["TensorBoardTracker", "Tracker", "tracked"]


class Tracker(Protocol):
    """An object that receives the settings of a training, then one row per epoch.

    After a resume, a new `start` is followed by the rows of the remaining epochs.
    """

    def start(self, settings: dict[str, Any]) -> None:
        """Called once before the first epoch, with the settings in the checkpoint as plain values."""
        ...

    def log(self, row: dict[str, float]) -> None:
        """Called after each epoch with its row of the history; `row["epoch"]` is its number, from 0."""
        ...

    def finish(self) -> None:
        """Called once at the end, also of a training that raises."""
        ...


class TensorBoardTracker:
    """Write each column of the history as a TensorBoard scalar, and the settings as text.

        fit(model, guide, train, valid, Training(), trackers=[TensorBoardTracker("logs/run")])

    Epochs that are repeated after a crash replace those logged before it.

    Args:
        directory: directory of the log, one per run.

    Raises:
        FlowvaeError: if TensorBoard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise FlowvaeError(
                f"TensorBoardTracker({str(directory)!r}): TensorBoard is not installed; pip install "
                "flowvae[tensorboard]."
            ) from None
        self.directory = Path(directory).expanduser()
        self._open = SummaryWriter
        self._writer: Any = None
        self._settings: dict[str, Any] = {}

    def start(self, settings: dict[str, Any]) -> None:
        """Open the log."""
        self._settings = settings

    def log(self, row: dict[str, float]) -> None:
        """Write the numbers of an epoch."""
        epoch = int(row["epoch"])
        if self._writer is None:
            self._writer = self._open(str(self.directory), purge_step=epoch)
            self._writer.add_text("settings", f"```json\n{json.dumps(self._settings, indent=2)}\n```", epoch)
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, epoch)

    def finish(self) -> None:
        """Close the log."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextmanager
def tracked(trackers: Sequence[Tracker], settings: dict[str, Any]) -> Iterator[None]:
    """Start the trackers, and finish those that were started when the block is left."""
    with ExitStack() as stack:
        for tracker in trackers:
            tracker.start(deepcopy(settings))
            stack.callback(tracker.finish)
        yield
