"""The units of real numbers: each value's mean and spread, or one spread for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec, Units, check_default_type
from flowvae.data.access import first
from flowvae.data.places import column
from flowvae.data.precision import check_outliers, column_offsets, column_units

__all__ = ["RealUnits"]


class RealUnits(LikelihoodSpec):
    """A likelihood of real numbers, in units of the mean and the spread of the training data.

    Attributes:
        fixed: the noise scale in the units of the data; None: learned.
        shared: whether all values have one unit, the pooled standard deviation.
        constants: whether columns may be constant; their unit is then the pooled standard deviation.
    """

    discrete = False
    support = "finite numbers"

    @property
    def fixed(self) -> float | None:
        return None

    @property
    def shared(self) -> bool:
        return False

    @property
    def constants(self) -> bool:
        return False

    def offsets(self, train: NDArray[Any], kind: type) -> NDArray[np.float64]:
        return column_offsets(train, self.fixed, self.shared, kind)

    def check(self, name: str, splits: Mapping[str, Any]) -> None:
        center, unit = column_units(f"{name}, train", splits["train"], self.fixed, self.shared)
        check_outliers(name, splits, center, unit, self.fixed, self.shared)

    def units(self, train: Any) -> Units:
        """Compute mean and unit of each value, of the event shape.

        Raises:
            FlowvaeError: for data whose dtype is not torch's default, or a value that is constant and has no scale.
        """
        check_default_type(train.dtype)
        center, unit = column_units("train", train, self.fixed, self.shared)
        if self.constants:
            unit = unit.where(unit > 0, unit.square().mean().sqrt())
        constant = (unit.flatten() == 0).nonzero().flatten().tolist()
        if constant:
            others = f", and so are {len(constant) - 1} others" if len(constant) > 1 else ""
            value = first(train, 1).flatten()[constant[0]].item()
            learned = "" if self.shared else "gaussian:shared learns it, as for images, and "
            raise FlowvaeError(
                f"train: {column(constant[0], unit.shape)} is constant ({value:g}){others}, in all {len(train)} rows, "
                "so it has no spread as the unit of a noise scale. Leave constant columns out, or use one scale for "
                f"all: {learned}gaussian:0.1 fixes it."
            )
        return Units(center, unit)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)
