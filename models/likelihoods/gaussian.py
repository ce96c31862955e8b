"""The Gaussian likelihood of real numbers, with a fixed or a learned scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, check_bool, check_number, shown
from flowvae.core.parts import LikelihoodSpec, Units, check_default_type
from flowvae.data.access import first
from flowvae.data.places import column
from flowvae.data.precision import LARGEST, SMALLEST, check_outliers, column_offsets, column_units
from flowvae.models.likelihoods.likelihood import LEAST_LOG_SCALE, Likelihood

__all__ = ["GaussianLikelihood"]


class _Gaussian(Likelihood):
    """Normal with the decoder's output as mean, in units of the data's own location and spread."""

    log_scale: Tensor

    def __init__(self, shape: Size, units: Units, scale: float | None) -> None:
        super().__init__(shape, units)
        self.learned = scale is None
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))  # in units of `unit`
        else:
            self.register_buffer("log_scale", math.log(scale) - units.unit.log())

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        log_scale = self.log_scale
        if self.learned:  # the value is bounded, but not its gradient, which can lead away from the bound
            log_scale = log_scale + (log_scale.clamp_min(LEAST_LOG_SCALE) - log_scale).detach()
        return dist.Normal(self.mean(parameters), self.unit * log_scale.exp()).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center + self.unit * parameters


@dataclass(frozen=True)
class GaussianLikelihood(LikelihoodSpec, name="gaussian"):
    """Real-valued data with Gaussian noise; the decoder gives the mean, in units of the data's spread.

    Args:
        scale: standard deviation of the noise, in the units of the data; None: learned, as one fraction of
            each value's own standard deviation, at least a thousandth. A constant column is then an error.
        shared: whether the learned scale is one number for all values, a fraction of the pooled standard deviation:
            for images, whose pixels have one unit and may be constant.

    References:
        Rybkin, Daniilidis & Levine (2021), "Simple and effective VAE training with calibrated decoders" (shared).
    """

    discrete: ClassVar[bool] = False
    support = "finite numbers"
    scale: float | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        check_number(self, "scale", optional=True)
        check_bool(self, "shared")
        if self.shared and self.scale is not None:
            raise FlowvaeError(
                f"GaussianLikelihood.shared with scale = {self.scale:g}: a fixed scale is always shared; drop one."
            )
        if self.scale is not None and not SMALLEST <= self.scale <= LARGEST:
            raise FlowvaeError(
                f"GaussianLikelihood.scale = {self.scale:g}: must be {SMALLEST:g} to {LARGEST:g}, so that float32 can "
                "represent its square. Rescale the data."
            )

    def offsets(self, train: NDArray[Any], kind: type) -> NDArray[np.float64]:
        return column_offsets(train, self.scale, self.shared, kind)

    def check(self, name: str, splits: Mapping[str, Any]) -> None:
        center, unit = column_units(f"{name}, train", splits["train"], self.scale, self.shared)
        check_outliers(name, splits, center, unit, self.scale)

    def units(self, train: Any) -> Units:
        """Mean and unit of each value, the event shape.

        Raises:
            FlowvaeError: for data whose dtype is not torch's default, or a value that is constant and has no scale.
        """
        check_default_type(train.dtype)
        center, unit = column_units("train", train, self.scale, self.shared)
        constant = (unit.flatten() == 0).nonzero().flatten().tolist()
        if constant:
            others = f", and so are {len(constant) - 1} others" if len(constant) > 1 else ""
            value = first(train, 1).flatten()[constant[0]].item()
            raise FlowvaeError(
                f"train: {column(constant[0], unit.shape)} is constant ({value:g}){others}, in all {len(train)} rows, "
                "so it has no spread for a noise scale of its own. Leave constant columns out, or use one scale for "
                "all: gaussian:shared learns it, as for images, and gaussian:0.1 fixes it."
            )
        return Units(center, unit)

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _Gaussian(shape, units, self.scale)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def __str__(self) -> str:
        if self.shared:
            return "gaussian:shared"
        return "gaussian" if self.scale is None else f"gaussian:{self.scale}"

    @classmethod
    def from_text(cls, value: str | None) -> GaussianLikelihood:
        if value == "shared":
            return cls(shared=True)
        try:
            return cls(None if value is None else float(value))
        except FlowvaeError:
            raise
        except ValueError:
            raise FlowvaeError(
                f"likelihood {shown(f'gaussian:{value}')}: must have the form gaussian, gaussian:SCALE or "
                "gaussian:shared."
            ) from None
