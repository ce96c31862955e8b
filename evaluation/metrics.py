"""What a measured number carries with it, and the file that keeps it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flowvae.errors import DamagedError
from flowvae.files import atomic_write

__all__ = ["Metric", "mean_metric", "mean_se", "merge_metrics", "read_metrics", "write_metrics"]


@dataclass(frozen=True)
class Metric:
    """A measured number.

    Args:
        name: what was measured.
        value: the number.
        se: its standard error over the data of the split; None where it has none.
        unit: "nats per datum", "bits/dim", "draws", ….
        split: the data it was measured on.
        protocol: identity of the data, draws, seed.
    """

    name: str
    value: float
    se: float | None
    unit: str
    split: str
    protocol: dict[str, Any]

    def __str__(self) -> str:
        # two digits of the standard error, or of a small value that has none; never more than four after the point
        size = abs(self.value) if self.se is None else self.se
        digits = 2 if size >= 0.1 or size == 0 or not math.isfinite(size) else min(4, 1 - math.floor(math.log10(size)))
        spread = "" if self.se is None else f" ± {self.se:.{digits}f}"
        return f"{self.name}: {self.value:.{digits}f}{spread} {self.unit} ({self.split})"


def mean_se(values: Tensor) -> tuple[float, float | None]:
    """The mean of independent values, shape (N,), and its standard error; None of one value."""
    values = values.double()
    se = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return values.mean().item(), se


def mean_metric(name: str, values: Tensor, unit: str, split: str, protocol: dict[str, Any]) -> Metric:
    """The mean of one value a datum, shape (N,), with its standard error over the data."""
    return Metric(name, *mean_se(values), unit, split, protocol)


def write_metrics(path: Path, metrics: list[Metric]) -> None:
    """Write them as a JSON list."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps([asdict(metric) for metric in metrics], indent=2) + "\n")


def merge_metrics(path: Path, new: list[Metric]) -> None:
    """Put metrics into the file, in place of those of the same name and split.

    Raises:
        DamagedError: if the file holds something else.
    """
    if not new:
        return
    measured = {(metric.name, metric.split) for metric in new}
    kept = [m for m in read_metrics(path) if (m.name, m.split) not in measured] if path.exists() else []
    write_metrics(path, kept + new)


def read_metrics(path: Path) -> list[Metric]:
    """Read what `write_metrics` wrote.

    Raises:
        DamagedError: if the file holds something else.
    """
    try:
        return [Metric(**entry) for entry in json.loads(path.read_text())]
    except (TypeError, ValueError) as error:
        raise DamagedError(
            f"{path}: not the measures of a run ({error}); delete it and evaluate the run anew."
        ) from None
