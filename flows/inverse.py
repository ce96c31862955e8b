"""The inverse of any flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

import tyro
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Cost
from flowvae.flows.spec import FlowSpec

__all__ = ["Inverse"]

Family = TypeVar("Family", bound=FlowSpec)


@dataclass(frozen=True)
class Inverse(FlowSpec, Generic[Family], wraps="flow", prefix="inverse-"):
    """A flow with its directions exchanged: the inverse of a flow with a cheap density is cheap to sample.

    Args:
        flow: the family to invert.

    Raises:
        FlowvaeError: for a flow that is not a bijection of R^D, acts on images, is an `Inverse` or has a named inverse.

    >>> from flowvae.flows import MAF
    >>> Inverse(MAF(transforms=3)).cost(features=8)
    Cost(density=27, sample=3, sample_and_density=3)
    """

    title: ClassVar[str] = "another family with its directions exchanged"
    paper: ClassVar[str] = "Kingma et al. 2016"

    flow: Annotated[Family, tyro.conf.arg(name="")]  # its settings need no prefix on the command line

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowSpec):
            raise FlowvaeError(f"Inverse.flow = {shown(self.flow)}: must be a flow, such as MAF().")
        if self.flow.inverse_name:
            raise FlowvaeError(f"Inverse.flow = {shown(self.flow)}: its inverse is {self.flow.inverse_name}; use that.")
        if self.flow.shaped:
            raise FlowvaeError(f"Inverse.flow = {shown(self.flow)}: {self.flow.why_not}; its inverse has no use there.")
        if isinstance(self.flow, Inverse):
            raise FlowvaeError(f"Inverse.flow = {shown(self.flow)}: its inverse is the flow itself; use that.")
        if not self.flow.proper:
            raise FlowvaeError(
                f"Inverse.flow = {shown(self.flow)}: cannot be inverted: it is not a bijection of all of R^D. "
                "Use one that is normalized, such as MAF(), NSF() or BPF()."
            )

    @property
    def starts_as_identity(self) -> bool:
        return self.flow.starts_as_identity

    @property
    def twice_differentiable(self) -> bool:  # type: ignore[override]
        """Whether the inverted flow can be differentiated twice."""
        return self.flow.twice_differentiable

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]
        """The roles of the inverted flow, with prior and posterior exchanged."""
        exchanged = {"prior": "posterior", "posterior": "prior"}
        return tuple(role for role, other in exchanged.items() if other in self.flow.roles)

    @property
    def why_not(self) -> str:  # type: ignore[override]
        """The reason why the family has no other role."""
        inner = type(self.flow).__name__
        return self.flow.why_not and f"it draws in the direction of {inner}'s densities, and {self.flow.why_not}"

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        return self.flow.transform(features, context).inv

    def cost(self, features: int) -> Cost:
        cost = self.flow.cost(features)
        # zuko returns value and log-determinant together in the direction that it evaluates directly
        return Cost(density=cost.sample_and_density, sample=cost.density, sample_and_density=cost.density)
