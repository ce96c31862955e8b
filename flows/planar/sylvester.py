"""Sylvester flows: orthogonal, Householder and triangular."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_choice, check_int
from flowvae.core.parts import Cost
from flowvae.flows.layers.parametric import ParametricTransform
from flowvae.flows.linear.householder import reflect
from flowvae.flows.residual.roots import TYPICAL_STEPS, monotone_root
from flowvae.flows.spec import FlowSpec

__all__ = ["Sylvester", "SylvesterTransform", "orthogonalize"]

KINDS = ("orthogonal", "householder", "triangular")
LARGEST = 1 - 1e-3  # |r_ii| and |r̃_ii|: tanh rounds to 1, and r_ii r̃_ii > -1 is a strict inequality


class SylvesterTransform(Transform):
    """Sylvester layer z' = z + Q R tanh(R̃ Qᵀ z + b) of rank M ≤ D, in its *generative* direction.

    Q has orthonormal columns, R and R̃ are upper triangular with diagonals in (-1, 1), so that
    r_ii r̃_ii > -1 = -1 / sup tanh' and the layer is invertible. By Sylvester's identity
    log|det ∂z'/∂z| = Σ_i log(1 + tanh'_i r_ii r̃_ii).

    Args:
        Q: orthonormal columns, shape (..., D, M).
        triangles: the strict upper triangles of R and, transposed, below the diagonal, of R̃; shape (..., M, M).
        r: diagonal of R before tanh, shape (..., M).
        s: diagonal of R̃ before tanh, shape (..., M).
        b: offset, shape (..., M).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, Q: Tensor, triangles: Tensor, r: Tensor, s: Tensor, b: Tensor) -> None:
        super().__init__()
        self.Q, self.b = Q, b
        self.r, self.s = LARGEST * torch.tanh(r), LARGEST * torch.tanh(s)
        self.R = triangles.triu(1) + torch.diag_embed(self.r)
        self.S = triangles.mT.triu(1) + torch.diag_embed(self.s)

    def _bend(self, z: Tensor) -> Tensor:
        """Compute tanh(R̃ Qᵀ z + b), shape (..., M)."""
        return torch.tanh(_times(self.S, _times(self.Q.mT, z)) + self.b)

    def _moved(self, z: Tensor, t: Tensor) -> Tensor:
        return z + _times(self.Q, _times(self.R, t))

    def _log_det(self, t: Tensor) -> Tensor:
        return torch.log1p((1 - t.square()) * self.r * self.s).sum(-1)

    def _call(self, x: Tensor) -> Tensor:
        return self._moved(x, self._bend(x))

    def _inverse(self, y: Tensor) -> Tensor:
        # In the basis Q the map is v' = v + R tanh(R̃ v + b). The last coordinate depends on no other, the one before
        # on the last, and so on: each is the root of an increasing function of one variable.
        target = _times(self.Q.mT, y)
        M = target.shape[-1]
        v: list[Tensor] = []  # coordinates i+1 ... M, and their tanh
        t: list[Tensor] = []
        for i in reversed(range(M)):
            offset, shift = self.b[..., i], target[..., i]
            for j, (v_j, t_j) in enumerate(zip(v, t, strict=True), start=i + 1):
                offset = offset + self.S[..., i, j] * v_j
                shift = shift - self.R[..., i, j] * t_j
            v_i = _solve(self.r[..., i], self.s[..., i], offset, shift)
            v.insert(0, v_i)
            t.insert(0, torch.tanh(self.s[..., i] * v_i + offset))
        return y - _times(self.Q, _times(self.R, torch.stack(t, dim=-1)))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the log-determinant in nats, shape (...)."""
        return self._log_det(self._bend(x))

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the value, shape (..., D), and its log-determinant in nats, shape (...), in one pass."""
        t = self._bend(x)
        return self._moved(x, t), self._log_det(t)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _solve(r: Tensor, s: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Solve x + r tanh(s x + b) = y for x, all of shape (...)."""

    def excess(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.tanh(s * x + b)
        bend = 1 - t.square()
        inside = bend * ((s * x).abs() + b.abs())  # error of tanh due to its argument's rounding
        return x + r * t - y, 1 + r * s * bend, y.abs() + r.abs() * (1 + inside)

    return monotone_root(excess, y - r.abs(), y + r.abs())


def orthogonalize(A: Tensor, most: int = 100) -> Tensor:
    """Find the matrix with orthonormal columns nearest to A (..., D, M), by Q ← Q (3I − QᵀQ) / 2.

    With A scaled to ‖A‖ ≤ 1 the iteration converges whenever the columns are independent (Björck & Bowie 1971).

    Raises:
        FlowvaeError: if it has not converged after `most` iterations.
    """
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    tolerance = 8 * A.shape[-2] * torch.finfo(A.dtype).eps
    A = A / A.detach().abs().amax((-2, -1), keepdim=True)  # no overflow in the squares
    Q = A / torch.linalg.matrix_norm(A, keepdim=True)
    for _ in range(most):
        gram = Q.mT @ Q
        if ((gram - eye).abs().amax((-2, -1)) <= tolerance).all():
            return Q
        Q = Q @ (1.5 * eye - 0.5 * gram)
    raise FlowvaeError(
        f"Sylvester(kind='orthogonal'): Q is not orthogonal after {most} iterations (QᵀQ differs from I by "
        f"{(Q.mT @ Q - eye).abs().max().item():.1e}; {tolerance:.1e} is allowed): its columns have become "
        "dependent or not finite. Lower the learning rate, or use kind='householder'."
    )


def _orthogonal(A: Tensor, *rest: Tensor) -> Transform:
    return SylvesterTransform(orthogonalize(A), *rest)


def _householder(vectors: Tensor, *rest: Tensor) -> Transform:
    M = rest[1].shape[-1]
    eye = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
    # the rows of I are reflected, so the result is Qᵀ
    return SylvesterTransform(reflect(eye[:M], vectors.unsqueeze(-3)).mT, *rest)


def _triangular(flip: bool, *rest: Tensor) -> Transform:
    r = rest[1]
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    return SylvesterTransform(eye.flip(0) if flip else eye, *rest)


@dataclass(frozen=True)
class Sylvester(FlowSpec, name="sylvester"):
    """Sylvester flow, z' = z + Q R tanh(R̃ Qᵀ z + b): a planar layer that moves points along M directions at once.

    It was proposed for guides: with a context, every parameter is linear in it. There is no network; a *pass* of `cost`
    is one evaluation of a layer. The density of a value that the flow did not draw needs M roots per layer, one for
    each coordinate; here a pass is one evaluation of a function of one variable (at most 12 per root for ordinary
    parameters). It is therefore a posterior; `Inverse(Sylvester())` is a prior.

    Args:
        kind: how Q is kept orthonormal. "orthogonal": by iterated orthogonalization of a free matrix.
            "householder": as a product of D reflections. "triangular": Q is the identity in one layer and
            reverses the order of the dimensions in the next.
        transforms: number of layers.
        rank: M, the columns of Q (none: the latent size). Q of kind "triangular" is always square.

    Raises:
        FlowvaeError: for settings out of range; when built, for a rank above the latent size; when called, if Q of
            kind "orthogonal" has lost its rank.

    References:
        van den Berg, Hasenclever, Tomczak & Welling (2018), "Sylvester Normalizing Flows for Variational
        Inference".

    >>> Sylvester(transforms=4).cost(features=8)
    Cost(density=384, sample=4, sample_and_density=4)
    """

    title: ClassVar[str] = "Sylvester flow"
    paper: ClassVar[str] = "van den Berg et al. 2018"
    roles: ClassVar[tuple[str, ...]] = ("posterior",)
    why_not: ClassVar[str] = "the density of a value that it did not draw needs root-finding in every layer"

    kind: str = "orthogonal"
    transforms: int = 4
    rank: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "kind", KINDS)
        check_int(self, "transforms", most=MOST_LAYERS)
        if self.rank is not None:
            check_int(self, "rank")
            if self.kind == "triangular":
                raise FlowvaeError(
                    f"Sylvester.rank = {self.rank} with kind = 'triangular': its Q is square. Leave rank out, or "
                    "use kind='orthogonal'."
                )

    def check_features(self, features: int) -> None:
        super().check_features(features)
        if self.rank is not None and self.rank > features:
            raise FlowvaeError(
                f"Sylvester.rank = {self.rank} at latent = {features}: Q cannot have more columns than rows. Use "
                f"{features} or less."
            )

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        M = self.rank or features
        layers = []
        for step in range(self.transforms):
            # R = 0 is the identity; R̃ = I / 2 is not 0, so R has a gradient
            rest = (torch.zeros(M, M), torch.zeros(M), torch.full((M,), math.atanh(0.5)), torch.zeros(M))
            if self.kind == "orthogonal":
                start = (torch.linalg.qr(torch.randn(features, M)).Q, *rest)
                layer = ParametricTransform(_orthogonal, start, context)
            elif self.kind == "householder":
                layer = ParametricTransform(_householder, (torch.randn(features, features), *rest), context)
            else:
                layer = ParametricTransform(partial(_triangular, step % 2 == 1), rest, context)
            layers.append(layer.inv)
        return LazyComposedTransform(*layers)

    def cost(self, features: int) -> Cost:
        layers, roots = self.transforms, min(self.rank or features, features)
        return Cost(density=layers * roots * TYPICAL_STEPS, sample=layers, sample_and_density=layers)
