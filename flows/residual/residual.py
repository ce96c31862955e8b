"""Invertible residual flow."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import (
    MOST_LAYERS,
    EstimatedDensityWarning,
    FlowvaeError,
    check_int,
    check_number,
    check_widths,
    shown,
)
from flowvae.core.parts import Cost
from flowvae.flows.spec import FlowSpec

__all__ = ["Residual", "ResidualTransform"]

EXACT_TERMS = 2  # terms of the power series that are always included, before the Russian roulette
BOUND = 1.1  # sup |silu'| = 1.0998...


class ContractiveMLP(nn.Module):
    """A network g(z, c) whose Lipschitz constant in z is below a bound for all parameters.

    Each weight matrix that acts on z is rescaled if its largest singular value (computed exactly in every call) is
    above the layer's share of the bound; silu / 1.1 is 1-Lipschitz and smooth.

    Args:
        features: D, number of inputs and of outputs.
        context: size of c, which enters the first layer without a bound; 0: none.
        hidden_features: widths of the hidden layers.
        lipschitz: the bound, below 1.
    """

    def __init__(self, features: int, context: int, hidden_features: tuple[int, ...], lipschitz: float) -> None:
        super().__init__()
        widths = (features, *hidden_features, features)
        linears = [nn.Linear(before, after) for before, after in pairwise(widths)]
        nn.init.zeros_(linears[-1].weight)
        nn.init.zeros_(linears[-1].bias)
        self.layers = nn.ModuleList(linears)
        self.context = nn.Linear(context, widths[1], bias=False) if context else None
        self.share = lipschitz ** (1 / len(self.layers))
        self.lipschitz = lipschitz

    def biases(self) -> list[Tensor]:
        """Return the biases of all layers."""
        return [layer.bias for layer in self.layers if isinstance(layer, nn.Linear)]

    def weights(self) -> list[Tensor]:
        """Compute the rescaled weight matrices, each with a spectral norm of at most the layer's share."""
        found = []
        for W in (layer.weight for layer in self.layers if isinstance(layer, nn.Linear)):
            largest = W.detach().abs().max().clamp_min(1)  # squares of large entries would overflow
            norm = torch.linalg.matrix_norm(W / largest, 2) * largest
            found.append(W / (norm / self.share).clamp_min(1))
        return found


class ResidualTransform(Transform):
    """Residual layer u = z + g(z) with Lip(g) < 1, in its *normalizing* direction.

    log|det ∂u/∂z| = log|det(I + J)| = Σ_k (-1)^{k+1} tr(Jᵏ) / k with J = ∂g/∂z. The inverse is the fixed point
    of z ← u − g(z).

    Args:
        network: g.
        c: the context, shape (..., context), or None.
        exact: whether the log-determinant is computed from J, or estimated from its power series.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, network: ContractiveMLP, c: Tensor | None, exact: bool) -> None:
        super().__init__()
        self.exact, self.lipschitz = exact, network.lipschitz
        self.weights, self.biases = network.weights(), network.biases()
        self.shift: Tensor = torch.zeros_like(self.biases[0]) if network.context is None else network.context(c)

    def _residual(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute g(z), shape (..., D), and the activations' slopes, with which `_push` multiplies by J."""
        h = F.linear(z, self.weights[0], self.biases[0]) + self.shift
        slopes = []
        for W, b in zip(self.weights[1:], self.biases[1:], strict=True):
            gate = torch.sigmoid(h)
            slopes.append(gate * (1 + h * (1 - gate)) / BOUND)
            h = F.linear(h * gate / BOUND, W, b)
        return h, slopes

    def _push(self, slopes: list[Tensor], tangents: Tensor) -> Tensor:
        """Multiply tangents of shape (..., D, n) by J."""
        tangents = self.weights[0] @ tangents
        for W, slope in zip(self.weights[1:], slopes, strict=True):
            tangents = W @ (slope.unsqueeze(-1) * tangents)
        return tangents

    def _jacobian(self, z: Tensor, slopes: list[Tensor]) -> Tensor:
        """Compute I + J, shape (..., D, D)."""
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return eye + self._push(slopes, eye)

    def _call(self, x: Tensor) -> Tensor:
        return x + self._residual(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            x = self._fixed_point(y)
        if not torch.is_grad_enabled():
            return x
        for _ in range(2):
            # x is exact up to rounding: two Newton steps add its first and second derivatives, without changing it
            g, slopes = self._residual(x)
            newton = torch.linalg.solve(self._jacobian(x, slopes), x + g - y)
            x = x - (newton - newton.detach())
        return x

    def _fixed_point(self, y: Tensor) -> Tensor:
        epsilon = torch.finfo(y.dtype).eps
        # each step shrinks the error by lipschitz, down to the rounding of g, whose biases may be large
        offsets = [self.biases[0] + self.shift, *self.biases[1:]]
        scale = 1 + max(offset.abs().max().item() for offset in offsets)
        most = fixed_point_steps(self.lipschitz, epsilon)
        x = y - self._residual(y)[0]
        for _ in range(most):
            following = y - self._residual(x)[0]
            change = (following - x).abs().amax(-1)
            x = following
            if (change <= 8 * epsilon * (scale + x.abs().amax(-1))).all():
                return x
        raise FlowvaeError(
            f"Residual(lipschitz={self.lipschitz:g}): the inverse has not converged after {most} steps (last "
            f"change {change.max().item():.1e}): the values are not finite, or too large for {y.dtype}. Lower "
            "lipschitz, lower the learning rate, or use float64."
        )

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the log-determinant in nats, shape (...); unbiased if not exact."""
        return self._log_det(x, self._residual(x)[1])

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the value, shape (..., D), and its log-determinant in nats, shape (...)."""
        g, slopes = self._residual(x)
        return x + g, self._log_det(x, slopes)

    def _log_det(self, x: Tensor, slopes: list[Tensor]) -> Tensor:
        if self.exact:
            # LAPACK pivots, so the sign of a positive determinant is safe; its size is at least (1 - L)^D
            return torch.linalg.slogdet(self._jacobian(x, slopes))[1].expand(slopes[0].shape[:-1])
        return self._series(x, slopes)

    def _series(self, x: Tensor, slopes: list[Tensor]) -> Tensor:
        """Estimate the series by random truncation, each term divided by its probability (Chen et al. 2019, eq. 6).

        Each further term is included with probability L = lipschitz. The k-th term is of order Lᵏ and is divided by a
        power of L of the same order, so the variance is finite for all parameters.
        """
        roulette = math.floor(math.log(1 - torch.rand((), dtype=torch.float64).item()) / math.log(self.lipschitz))
        shape = (*slopes[0].shape[:-1], x.shape[-1], 1)
        probe = torch.randint(0, 2, shape, device=x.device).to(x.dtype) * 2 - 1  # Hutchinson's, E[v vᵀ] = I
        power, total = probe, torch.zeros((), dtype=x.dtype, device=x.device)
        for k in range(1, EXACT_TERMS + roulette + 1):
            power = self._push(slopes, power)
            reached = self.lipschitz ** max(0, k - EXACT_TERMS)
            total = total + (-1) ** (k + 1) / (k * reached) * (probe * power).sum((-2, -1))
        return total


def fixed_point_steps(lipschitz: float, epsilon: float) -> int:
    """Compute the number of steps that guarantees a relative error of epsilon of the fixed point."""
    return math.ceil(math.log(epsilon) / math.log(lipschitz))


class LazyResidual(LazyTransform):
    """Lazy transform of one residual layer, with its network."""

    def __init__(self, network: ContractiveMLP, exact: bool) -> None:
        super().__init__()
        self.network, self.exact = network, exact

    def forward(self, c: Tensor | None = None) -> ResidualTransform:
        """Return the transform for a context of shape (..., context)."""
        return ResidualTransform(self.network, c, self.exact)


@dataclass(frozen=True)
class Residual(FlowSpec, name="residual"):
    """Residual flow: u = z + g(z), with contractive networks g.

    Up to `exact_up_to` dimensions the log-determinant is exact. Above, it is an unbiased estimate: a power series
    truncated at random (Russian roulette), with a random probe for each value. Log-densities are then noisy (from
    torch's generator). They are unbiased, but their exponentials are *not*, so an importance-weighted bound from them
    is not a bound; raise `exact_up_to` for such a measure. Building such a flow emits a warning.

    A *pass* of `cost` is one evaluation of a layer's g or one product with its Jacobian. A sample is the fixed
    point of z ← u − g(z), which takes at most log(float32's epsilon) / log(lipschitz) passes (the number in
    `cost`), and usually a tenth of that. It is therefore a prior; `Inverse(Residual())` is a guide.

    Args:
        transforms: number of layers.
        hidden_features: widths of the hidden layers of each g.
        lipschitz: bound on the Lipschitz constant of each g, below 1. Near 1 a layer is more flexible, and its
            inverse takes more steps.
        exact_up_to: the largest latent size at which the log-determinant is exact.

    Raises:
        FlowvaeError: for settings out of range.

    Warns:
        EstimatedDensityWarning: when built for more than `exact_up_to` dimensions.

    References:
        Behrmann et al. (2019), "Invertible Residual Networks"; Chen, Behrmann, Duvenaud & Jacobsen (2019),
        "Residual Flows for Invertible Generative Modeling".

    >>> Residual(transforms=4).cost(features=8)
    Cost(density=36, sample=612, sample_and_density=720)
    """

    title: ClassVar[str] = "invertible residual flow"
    paper: ClassVar[str] = "Chen et al. 2019"

    transforms: int = 4
    hidden_features: tuple[int, ...] = (64, 64)
    lipschitz: float = 0.9
    exact_up_to: int = 8

    def __post_init__(self) -> None:
        check_int(self, "transforms", most=MOST_LAYERS)
        check_widths(self, "hidden_features")
        check_number(self, "lipschitz")
        if self.lipschitz >= 1:
            raise FlowvaeError(f"Residual.lipschitz = {shown(self.lipschitz)}: must be below 1, such as 0.9.")
        check_int(self, "exact_up_to", least=0)

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        exact = features <= self.exact_up_to
        if not exact:
            warnings.warn(
                f"Residual at {features} dimensions, above exact_up_to = {self.exact_up_to}: its log-densities are "
                "unbiased random estimates. The ELBO is noisier, and importance-weighted values (IWAE, NLL, effective "
                f"draws) are wrong, with too high an evidence; exact_up_to = {features} makes them exact.",
                EstimatedDensityWarning,
                stacklevel=2,
            )
        layers = [
            LazyResidual(ContractiveMLP(features, context, self.hidden_features, self.lipschitz), exact)
            for _ in range(self.transforms)
        ]
        return LazyComposedTransform(*layers)

    def cost(self, features: int) -> Cost:
        exact = features <= self.exact_up_to
        products = features if exact else round(EXACT_TERMS + self.lipschitz / (1 - self.lipschitz))
        density = self.transforms * (1 + products)
        sample = self.transforms * (1 + fixed_point_steps(self.lipschitz, torch.finfo(torch.float32).eps))
        gradient = 2 * self.transforms * (1 + features)  # of the fixed point
        return Cost(density=density, sample=sample, sample_and_density=sample + gradient + density)
