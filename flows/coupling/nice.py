"""Additive coupling flow with a diagonal scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Size, Tensor
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.transforms import AdditiveTransform, MonotonicAffineTransform

from flowvae.core.parts import Cost
from flowvae.flows.spec import NetworkFlowSpec, start_as_identity

__all__ = ["NICE"]


@dataclass(frozen=True)
class NICE(NetworkFlowSpec, name="nice"):
    r"""Additive coupling, u_b = z_b + m(z_a), and a diagonal scale at the end: u = exp(s) ⊙ h.

    The couplings preserve volume; log|det ∂u/∂z| = Σ s_i. (zuko's class of this name is affine coupling.)
    With a context, both m and s depend on it.

    References:
        Dinh, Krueger & Bengio (2014), "NICE: Non-linear Independent Components Estimation".

    >>> NICE(transforms=4).cost(features=8)
    Cost(density=4, sample=4, sample_and_density=8)
    """

    title: ClassVar[str] = "additive coupling flow"
    paper: ClassVar[str] = "Dinh et al. 2014"

    transforms: int = 4

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        layers: list[LazyTransform] = [
            GeneralCouplingTransform(
                features,
                context,
                mask=torch.arange(features) % 2 == step % 2,
                univariate=AdditiveTransform,
                shapes=[Size()],
                hidden_features=self.hidden_features,
            )
            for step in range(self.transforms)
        ]
        network: dict[str, Any] = {"hidden_features": self.hidden_features} if context else {}
        layers.append(ElementWiseTransform(features, context, univariate=_scale, shapes=[Size()], **network))
        return start_as_identity(LazyComposedTransform(*layers))

    def cost(self, features: int) -> Cost:
        steps = self.transforms
        return Cost(density=steps, sample=steps, sample_and_density=2 * steps)


def _scale(log_scale: Tensor) -> MonotonicAffineTransform:
    return MonotonicAffineTransform(torch.zeros_like(log_scale), log_scale)
