"""Named preprocessing of images, which is part of the identity of the data."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, plain_number, shown, shown_path
from flowvae.core.parts import LikelihoodSpec, as_likelihood, parse_likelihood
from flowvae.data.images.geometry import AS_THEY_ARE, Geometry

__all__ = ["OptionalPreprocessing", "Preprocessing"]


class Kind(NamedTuple):
    """A kind of values that intensities are converted to.

    Args:
        likelihood: default likelihood, in text form.
        text: description for the identity of the data.
        bits: whether values are 0 and 1.
        random: whether values are random.
        redrawn: whether the random values of training images are redrawn in every epoch.
    """

    likelihood: str
    text: str
    bits: bool = False
    random: bool = False
    redrawn: bool = False


KINDS = {
    "grey": Kind("discretized-logistic:{largest}", "counts 0..{largest}{levels}"),
    "threshold": Kind("bernoulli", "thresholded: 1 where x >= 0.5 * 255", bits=True),
    "fixed": Kind("bernoulli", "binarized once: 1 with probability x / 255, drawn by a fixed seed", True, True),
    "dynamic": Kind(
        "bernoulli",
        "dynamically binarized: 1 with probability x / 255, training images drawn anew in every epoch, the others once "
        "by a fixed seed",
        True,
        True,
        True,
    ),
    "dequantized": Kind(
        "gaussian:shared",
        "dequantized: counts 0..{largest}{levels} plus u, uniform on [0, 1), for training images drawn anew in every "
        "epoch, for the others once by a fixed seed",
        random=True,
        redrawn=True,
    ),
    "unit": Kind("continuous-bernoulli", "counts 0..{largest}{levels} divided by {largest}"),
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Geometry):
    """Preprocessing of images with intensities from 0 to 255.

    The order is `resize`, `crop`, `colour`; then intensities x become values:

    | `values` | model's x | default likelihood |
    | --- | --- | --- |
    | grey | counts 0..255 | `discretized-logistic:255` |
    | threshold | 1 where x ≥ 0.5 · 255, else 0 | `bernoulli` |
    | fixed | each pixel 1 with probability x/255, drawn once | `bernoulli` |
    | dynamic | the same, training images redrawn in every epoch | `bernoulli` |
    | dequantized | x + δ, δ uniform on [0, 1), training images redrawn in every epoch | `gaussian:shared` |
    | unit | x/255 | `continuous-bernoulli` |

    Values that are drawn once, and all validation and test images, do not depend on the seed of a run: all runs see
    the same values.

    Args:
        values: values that the model sees, from the table: grey, threshold, fixed, dynamic, dequantized or unit.
        levels: number of grey levels, 256 or a smaller power of 2: intensities become x // (256 / levels) first.
        flips: whether training images are mirrored left to right at random, anew in every epoch.
    """

    kinds: ClassVar[tuple[str, ...]] = tuple(KINDS)

    values: str = "grey"
    levels: int = 256
    flips: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "values", self.kinds)
        check_bool(self, "flips")
        object.__setattr__(self, "levels", plain_number(self.levels))
        if type(self.levels) is not int or self.levels not in (2, 4, 8, 16, 32, 64, 128, 256):
            raise FlowvaeError(
                f"{type(self).__name__}.levels = {shown(self.levels)}: must be 256 or a smaller power of 2, from 2."
            )
        if self.levels < 256 and self._kind.bits:
            raise FlowvaeError(
                f"{type(self).__name__}.levels = {self.levels} with values = {self.values!r}: bits have no grey "
                "levels; leave levels out, or choose values 'grey', 'dequantized' or 'unit'."
            )

    @property
    def _kind(self) -> Kind:
        return KINDS.get(self.values, Kind("", ""))

    @property
    def is_random(self) -> bool:
        """Whether values depend on random numbers."""
        return self._kind.random

    @property
    def draws_anew(self) -> bool:
        """Whether random values of training images are redrawn in every epoch."""
        return self._kind.redrawn

    @property
    def is_redrawn(self) -> bool:
        """Whether training images differ between epochs, by redrawn values or random flips."""
        return self.draws_anew or self.flips

    @property
    def dequantized(self) -> bool:
        """Whether uniform noise is added to counts."""
        return self.values == "dequantized"

    @property
    def text(self) -> str:
        """The whole preprocessing in words, for the identity of the data."""
        parts = self.geometry_text
        if self.flips:
            parts.append("training images flipped at random in every epoch")
        levels = "" if self.levels == 256 else f" (x // {256 // self.levels})"
        return "; ".join([*parts, self._kind.text.format(levels=levels, largest=self.levels - 1)])

    def warn_of_colours(self, where: str, channels: int) -> None:
        """Warn of images in colour whose channels are binarized separately.

        Args:
            where: name of the images in messages.
            channels: number of channels.
        """
        if self._kind.bits and channels > 1:
            warnings.warn(
                f"{where}: images in colour with values = {self.values!r}: each channel is binarized separately, "
                f"which leaves {2**channels} colours. To binarize grey images give colour = 'grey' (--data.colour "
                "grey); values = 'grey' keeps all colours, as counts 0..255 of each channel.",
                stacklevel=4,
            )

    def decide_likelihood(self, given: LikelihoodSpec | None) -> LikelihoodSpec:
        """The given likelihood, or the default for these values.

        Raises:
            FlowvaeError: for a likelihood whose support does not contain these values.
        """
        default = self._kind.likelihood.format(largest=self.levels - 1)
        if given is None:
            return parse_likelihood(default)
        if self._kind.bits and not given.discrete:
            raise FlowvaeError(
                f"likelihood {given} is a density; values = {self.values!r} are bits, whose density is unbounded: "
                f"leave the likelihood out, then it is {default}, or choose values = 'unit'."
            )
        possible = self.to_values(torch.arange(256, dtype=torch.uint8), torch.zeros(256, dtype=torch.int32)).float()
        possible = torch.tensor([0.0, 1.0]) if self._kind.bits else possible
        wrong = given.violations(possible)
        if wrong.any() or (given.largest is not None and given.largest != possible.max()):
            some = ", ".join(f"{value:.3g}" for value in possible.unique()[:2].tolist())
            raise FlowvaeError(
                f"likelihood {given} is of {given.support}; values = {self.values!r} are {some}, …, "
                f"{possible.max():g}: leave the likelihood out, then it is {default}, or choose other values."
            )
        return given

    def keep_likelihood(self) -> None:
        """Check the setting `likelihood` of data, and convert it from text.

        Raises:
            FlowvaeError: if it does not fit the values, or is missing for data without preprocessing.
        """
        given: Any = getattr(self, "likelihood", None)
        if given is None and not self.is_image:
            for name, path in getattr(self, "paths", {}).items():  # a missing file is reported first
                if not os.path.exists(path):
                    raise FlowvaeError(f"data.{name} = {shown_path(path)}: no such file; name the file of your data.")
            raise FlowvaeError(
                f"{type(self).__name__}: the setting 'likelihood' must be given, such as bernoulli or gaussian; for "
                "images with intensities 0..255 give values, such as 'grey' or 'dynamic'."
            )
        if given is not None:
            given = as_likelihood("data.likelihood", given)
            object.__setattr__(self, "likelihood", self.decide_likelihood(given) if self.is_image else given)

    @property
    def is_image(self) -> bool:
        """Whether the data are intensities to preprocess."""
        return self.values != AS_THEY_ARE

    def to_values(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Convert intensities to values of the same shape.

        Args:
            x: intensities from 0 to 255, uint8 or floating-point.
            noise: uniform random numbers of type int32, of the shape of x; None for values that are not random.
        """
        if self.values == "threshold":
            return x >= 127.5
        if self._kind.bits:
            assert noise is not None
            if x.is_floating_point():
                return (noise >> 8) < x * (2**24 / 255) - 2**23  # 24 bits, which float32 holds
            # P(odd ≤ t) = x / 255 up to 2⁻³¹, 0 and 1 exactly, as 255 · 16843009 = 2³² − 1
            return (noise | 1) <= x.int().mul_(16843009).add_(-(2**31))
        counts = x if self.levels == 256 else x // (256 // self.levels)
        if self.values == "unit":
            return counts.float() / (self.levels - 1)
        if self.dequantized:
            assert noise is not None
            # 16 bits: float32 never rounds a sum up to the next count
            return counts + ((noise >> 16) + 2**15) * 2.0**-16
        return counts


@dataclass(frozen=True, kw_only=True)
class OptionalPreprocessing(Preprocessing):
    """Preprocessing of data that may be images; by default they are used unchanged.

    Args:
        values: values of the table of `Preprocessing`; "as they are": no preprocessing, for data that are not
            intensities from 0 to 255 or need none.
    """

    kinds: ClassVar[tuple[str, ...]] = (*KINDS, AS_THEY_ARE)

    values: str = AS_THEY_ARE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.values == AS_THEY_ARE:
            for f in fields(Preprocessing):
                if f.name != "values" and getattr(self, f.name) != f.default:
                    raise FlowvaeError(
                        f"{type(self).__name__}.{f.name} = {shown(getattr(self, f.name))} without values: choose "
                        f"what intensities 0..255 become, values = one of {', '.join(map(repr, KINDS))}."
                    )
