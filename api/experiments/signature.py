"""Description of the data that a model is built from; with it a run opens without its data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Condition, LikelihoodSpec, parse_likelihood
from flowvae.data import Dataset, condition_of

__all__ = ["Signature"]


@dataclass(frozen=True)
class Signature:
    """Description of the data that a model is built from; with it a run opens without its data.

    Args:
        shape: event shape of x.
        rows: number of training data points.
        likelihood: the likelihood in text form.
        dtype: type of the data and the networks, "float32" or "float64".
        condition: size C of the condition; 0: no condition.
        classes: names of the classes; empty if they have none.
        frequencies: number of training data points per class, for a model conditioned on labels; otherwise empty.
        offset: flattened offset that was subtracted from the original data; None: no offset.
    """

    shape: tuple[int, ...]
    rows: int
    likelihood: str
    dtype: str
    condition: int
    classes: tuple[str, ...]
    frequencies: tuple[int, ...]
    offset: tuple[float, ...] | None = None

    @classmethod
    def of(cls, data: Dataset, condition: Condition | None = None) -> Signature:
        """Return the signature of a data set."""
        given = None if condition is None else condition_of(data, condition, "train")
        by_class = given is not None and condition is not None and condition.on == "labels"
        return cls(
            shape=tuple(data.shape),
            rows=len(data.train),
            likelihood=str(data.likelihood),
            dtype=str(data.train.dtype).removeprefix("torch."),
            condition=0 if given is None else given.shape[1],
            classes=tuple(data.classes or ()),
            frequencies=tuple(given.long().sum(0).tolist()) if by_class and given is not None else (),
            offset=None if data.offset is None else tuple(data.offset.flatten().tolist()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Any) -> Signature:
        """Create a signature from the values of `to_dict`.

        Raises:
            FlowvaeError: for any other value, such as that of an earlier version.
        """
        if not isinstance(plain, dict) or plain.keys() != {f.name for f in fields(cls)}:
            raise FlowvaeError("is a run of an earlier version, whose files differ; train it again (--overwrite).")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return cls(**values)

    @property
    def spec(self) -> LikelihoodSpec:
        """The likelihood."""
        return parse_likelihood(self.likelihood)

    @property
    def offset_array(self) -> NDArray[np.float64] | None:
        """The offset that was subtracted from the original data, of the event shape; None: no offset."""
        return None if self.offset is None else np.array(self.offset).reshape(self.shape)
