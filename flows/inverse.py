"""Any flow turned round, and IAF, the one whose inverse has a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

import tyro
from zuko.lazy import LazyTransform

from flowvae.errors import FlowvaeError
from flowvae.flows.maf import MAF
from flowvae.flows.spec import Cost, FlowSpec, NetworkFlowSpec

__all__ = ["IAF", "Inverse"]

Family = TypeVar("Family", bound=FlowSpec)


@dataclass(frozen=True)
class Inverse(FlowSpec, Generic[Family]):
    """A flow with its two directions exchanged: what was cheap to score is now cheap to sample.

    Args:
        flow: the family to turn round.

    >>> Inverse(MAF(transforms=3)).cost(features=8)
    Cost(density=27, sample=3, sample_and_density=3)
    """

    title: ClassVar[str] = "another family with its directions exchanged"
    paper: ClassVar[str] = "Kingma et al. 2016"

    flow: Annotated[Family, tyro.conf.arg(name="")]  # its settings need no prefix on the command line

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowSpec):
            raise FlowvaeError(f"Inverse.flow = {self.flow!r}: must be a flow, such as MAF().")
        if self.flow.turned:
            raise FlowvaeError(f"Inverse.flow = {self.flow!r}: turned round it is {self.flow.turned}; use that.")
        if isinstance(self.flow, Inverse):
            raise FlowvaeError(f"Inverse.flow = {self.flow!r}: turned round twice is the flow itself; use that.")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the family may be: what restricts a direction of the flow inside restricts the other one here."""
        exchanged = {"prior": "posterior", "posterior": "prior"}
        return tuple(role for role, other in exchanged.items() if other in self.flow.roles)

    @property
    def why_not(self) -> str:  # type: ignore[override]
        """Why the family has no other role."""
        inner = type(self.flow).__name__
        return self.flow.why_not and f"it draws in the direction in which {inner} scores, and {self.flow.why_not}"

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        return self.flow.transform(features, context).inv

    def cost(self, features: int) -> Cost:
        cost = self.flow.cost(features)
        # zuko returns value and log-determinant together in the direction that it evaluates directly
        return Cost(density=cost.sample_and_density, sample=cost.density, sample_and_density=cost.density)


@dataclass(frozen=True)
class IAF(NetworkFlowSpec):
    """Inverse autoregressive flow: `Inverse(MAF)` under the field's name.

    A draw with its own density takes one pass a transform, the density of any other z one pass a dimension
    and transform: right in a guide, slow as a prior.

    References:
        Kingma et al. (2016), "Improved Variational Inference with Inverse Autoregressive Flow".

    >>> IAF(transforms=2).cost(features=8)
    Cost(density=18, sample=2, sample_and_density=2)
    """

    title: ClassVar[str] = "inverse autoregressive flow"
    paper: ClassVar[str] = "Kingma et al. 2016"
    turned: ClassVar[str] = "MAF"

    def _inverse(self) -> Inverse[MAF]:
        return Inverse(MAF(self.transforms, self.hidden_features))

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        return self._inverse().transform(features, context)

    def cost(self, features: int) -> Cost:
        return self._inverse().cost(features)
