"""Neural spline flows, autoregressive and coupling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zuko.lazy import LazyTransform

from flowvae.core.errors import check_bool, check_int
from flowvae.core.parts import Cost
from flowvae.flows.autoregressive.masked import masked_autoregressive
from flowvae.flows.layers.spline import RationalQuadraticSpline
from flowvae.flows.spec import NetworkFlowSpec, start_as_identity, with_affine_front

__all__ = ["NSF", "CouplingNSF"]


@dataclass(frozen=True)
class _Spline(NetworkFlowSpec):
    bins: int = 4
    affine: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "bins", least=2)
        check_bool(self, "affine")

    def _passes(self, features: int) -> int:
        raise NotImplementedError

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        transform = masked_autoregressive(
            features,
            context,
            univariate=RationalQuadraticSpline,
            shapes=[(self.bins,), (self.bins,), (self.bins - 1,)],
            transforms=self.transforms,
            hidden_features=self.hidden_features,
            passes=self._passes(features),
        )
        start_as_identity(transform)
        return with_affine_front(transform, features, context) if self.affine else transform

    def cost(self, features: int) -> Cost:
        steps, passes = self.transforms, self._passes(features)
        return Cost(density=steps, sample=steps * passes, sample_and_density=steps * (passes + 1))


@dataclass(frozen=True)
class NSF(_Spline, name="nsf"):
    """Autoregressive neural spline flow: each dimension is mapped by a monotonic rational-quadratic spline.

    The splines act on [-5, 5] and are the identity outside. Both directions cost as much as those of `MAF`.

    The round-trip error in float32, measured as for `MAF`, was 0.003 r at r = 3 and 0.3 r at 12 (float64: 1e-7 r).

    Args:
        bins: number of bins of each spline.
        affine: whether a learned shift and scale come first, which bring distant codes into the splines' box.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), "Neural Spline Flows".

    >>> NSF(transforms=3).cost(features=8)
    Cost(density=3, sample=24, sample_and_density=27)
    """

    title: ClassVar[str] = "neural spline flow, autoregressive"
    paper: ClassVar[str] = "Durkan et al. 2019"

    def _passes(self, features: int) -> int:
        return features


@dataclass(frozen=True)
class CouplingNSF(_Spline, name="coupling-nsf"):
    """Coupling neural spline flow: one half of the dimensions transforms the other, then the halves swap.

    It is cheap in both directions, so it suits priors and guides. The round-trip error in float32, measured as for
    `MAF`, was 0.001 r at r = 3 and 0.1 r at 12 (float64: 1e-6 r).

    Args:
        bins: number of bins of each spline.
        affine: whether a learned shift and scale come first, which bring distant codes into the splines' box.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), "Neural Spline Flows".

    >>> CouplingNSF(transforms=3).cost(features=8)
    Cost(density=3, sample=6, sample_and_density=9)
    """

    title: ClassVar[str] = "neural spline flow, coupling"
    paper: ClassVar[str] = "Durkan et al. 2019"

    transforms: int = 4

    def _passes(self, features: int) -> int:
        return 2
