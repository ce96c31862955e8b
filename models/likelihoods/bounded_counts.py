"""The support of counts from 0 to a total."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int, shown
from flowvae.core.parts import LikelihoodSpec

__all__ = ["LARGEST_TOTAL", "BoundedCounts"]

LARGEST_TOTAL = 2**16  # float32 can represent half a count, and rounds log-probabilities by less than 0.01 nats a value


class BoundedCounts(LikelihoodSpec):
    """A likelihood of whole numbers from 0 to `total`."""

    discrete: ClassVar[bool] = True
    total: int

    def check_total(self) -> None:
        """Check that the total is a whole number in the range where float32 is precise enough.

        Raises:
            FlowvaeError: for any other total.
        """
        check_int(self, "total")
        if self.total > LARGEST_TOTAL:
            raise FlowvaeError(
                f"{type(self).__name__}.total = {shown(self.total)}: must be {LARGEST_TOTAL} at most, so that float32 "
                "is precise enough; rescale the counts, or use gaussian."
            )

    @property
    def support(self) -> str:
        return f"whole numbers from 0 to {self.total}"

    @property
    def largest(self) -> int:
        return self.total

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > self.total) | (x != x.round())
