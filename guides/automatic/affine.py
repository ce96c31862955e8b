"""The affine layer of a flow guide: location, scale and correlation of the posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.lazy import LazyTransform

__all__ = ["AffineLayer"]


class AffineLayer(LazyTransform):
    r"""Affine layer z = c + S (m + diag(eˢ) (I + N) v), with m, s, N learned and c, S fixed; its call is z → v.

    S and c are the units in which the layer learns. If a posterior's scales differ by orders of magnitude, or its
    variables are nearly collinear, one step size suits all of them only in units of the posterior: `restart` takes
    these from a Gaussian approximation.

    A full layer takes 4 D² multiplications per draw and has five D × D matrices in training (S, N, its gradient and
    Adam's moments); a diagonal one, in which N is zero and S diagonal, is linear in D.

    Args:
        features: D.
        full: whether N, strictly lower triangular, is learned and S is a matrix.
    """

    def __init__(self, features: int, full: bool = True) -> None:
        super().__init__()
        self.center: Tensor
        self.unit: Tensor
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("unit", torch.eye(features) if full else torch.ones(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        # a full matrix, of which only the lower triangle is used, is faster than a vector of the entries
        self.lower = nn.Parameter(torch.zeros(features, features)) if full else None

    @torch.no_grad()
    def restart(self, loc: Tensor, scale: Tensor) -> None:
        """Start at N(loc, L Lᵀ) and learn in its units.

        Args:
            loc: shape (D,).
            scale: L, lower triangular of shape (D, D), or its diagonal, (D,). A diagonal layer uses only the standard
                deviations of L Lᵀ.
        """
        if self.lower is None:
            self.unit.copy_(scale if scale.dim() == 1 else scale.square().sum(-1).sqrt())
        else:
            self.unit.copy_(scale.diag_embed() if scale.dim() == 1 else scale)
            self.lower.zero_()
        self.center.copy_(loc)
        self.shift.zero_()
        self.log_scale.zero_()

    def loc_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return the image of v = 0, shape (D,), and the lower triangular L, (D, D); a diagonal one as (D,)."""
        scale = self.log_scale.exp()
        if self.lower is None:
            return self.center + self.unit * self.shift, self.unit * scale
        # relative to the row's scale, so that optimizer steps are comparable at every scale
        tril = scale.diag_embed() + scale[:, None] * self.lower.tril(-1)
        return self.center + self.unit @ self.shift, self.unit @ tril

    def forward(self, c: Tensor | None = None) -> Transform:
        """Return the transform; a context is ignored."""
        lower = None if self.lower is None else self.lower.tril(-1)
        return _Affine(self.center, self.unit, self.shift, self.log_scale, lower).inv


class _Affine(Transform):
    """The map v → c + S (m + diag(eˢ) (I + N) v), factor by factor: the product of S and N would cost D³."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, center: Tensor, unit: Tensor, shift: Tensor, log_scale: Tensor, lower: Tensor | None) -> None:
        super().__init__()
        self.center, self.unit, self.shift, self.log_scale, self.lower = center, unit, shift, log_scale, lower

    def _call(self, x: Tensor) -> Tensor:
        if self.lower is None:
            return self.center + self.unit * (self.shift + self.log_scale.exp() * x)
        x = self.shift + self.log_scale.exp() * (x + x @ self.lower.mT)
        return self.center + x @ self.unit.mT

    def _inverse(self, y: Tensor) -> Tensor:
        y = y - self.center
        if self.lower is None:
            return (y / self.unit - self.shift) / self.log_scale.exp()
        y = (_solve(self.unit, y) - self.shift) / self.log_scale.exp()
        return _solve(self.lower, y, unitriangular=True)  # the diagonal of I + N is not read

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        unit = self.unit if self.lower is None else self.unit.diagonal()
        return (self.log_scale + unit.log()).sum().expand(x.shape[:-1])


def _solve(lower: Tensor, y: Tensor, unitriangular: bool = False) -> Tensor:
    """Solve L x = y for vectors y of shape (..., D)."""
    rows = y.reshape(-1, y.shape[-1])
    # from the right, x Lᵀ = y: the rows are not copied
    solved = torch.linalg.solve_triangular(lower.mT, rows, upper=True, left=False, unitriangular=unitriangular)
    return solved.reshape(y.shape)
