"""Inverse autoregressive flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.lazy import LazyTransform
from zuko.transforms import MonotonicAffineTransform

from flowvae.core.errors import check_choice
from flowvae.core.parts import Cost
from flowvae.flows.autoregressive.masked import masked_autoregressive
from flowvae.flows.spec import NetworkFlowSpec, start_as_identity

__all__ = ["IAF"]

OPEN = 2.0  # initial logit of the gate: sigmoid(2) = 0.88, near the identity, as the paper advises


@dataclass(frozen=True)
class IAF(NetworkFlowSpec, name="iaf"):
    r"""Inverse autoregressive flow: z_i is a map of u_i with parameters that depend on u_{<i}.

    A draw with its density takes one pass per transform, the density of any other z one pass per dimension and
    transform: suited to a guide, slow as a prior. With the affine update it is the inverse of a MAF,
    z_i = exp(a_i(u_{<i})) u_i + b_i(u_{<i}), and starts as the identity. With the paper's gated update,
    z_i = σ_i u_i + (1 − σ_i) m_i with σ_i = sigmoid(s_i + 2) and log|det ∂z/∂u| = Σ log σ_i, it starts near the
    identity.

    Args:
        update: "affine" or "gated".

    References:
        Kingma et al. (2016), "Improved Variational Inference with Inverse Autoregressive Flow".

    >>> IAF(transforms=2).cost(features=8)
    Cost(density=18, sample=2, sample_and_density=2)
    """

    title: ClassVar[str] = "inverse autoregressive flow"
    paper: ClassVar[str] = "Kingma et al. 2016"
    inverse_name: ClassVar[str] = "MAF"

    update: str = "affine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "update", ("affine", "gated"))

    @property
    def starts_as_identity(self) -> bool:
        return self.update == "affine"

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        univariate = GatedTransform if self.update == "gated" else MonotonicAffineTransform
        transform = masked_autoregressive(
            features,
            context,
            transforms=self.transforms,
            hidden_features=self.hidden_features,
            univariate=univariate,
        )
        return start_as_identity(transform).inv

    def cost(self, features: int) -> Cost:
        steps = self.transforms
        return Cost(density=steps * (features + 1), sample=steps, sample_and_density=steps)


class GatedTransform(Transform):
    """Gated transform u → σ u + (1 − σ) m with σ = sigmoid(s + 2), element-wise; m and s have the shape of u."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, m: Tensor, s: Tensor) -> None:
        super().__init__()
        self.m = m
        self.log_gate = F.logsigmoid(s + OPEN)
        self.gate = self.log_gate.exp()

    def _call(self, x: Tensor) -> Tensor:
        return self.gate * x + (1 - self.gate) * self.m

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - (1 - self.gate) * self.m) / self.gate

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_gate.expand(x.shape)
