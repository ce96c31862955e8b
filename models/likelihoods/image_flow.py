"""A conditional image flow as the likelihood of real-valued images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor, nn

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_int
from flowvae.core.parts import Units
from flowvae.core.seeds import seeded
from flowvae.models.likelihoods.likelihood import LEAST_LOG_SCALE, Likelihood, bounded, stacked
from flowvae.models.likelihoods.real_units import RealUnits

__all__ = ["CheckerboardCoupling", "ImageFlowDistribution", "ImageFlowLikelihood"]

LARGEST_LOG_SCALE = 7.0  # in units of the spread
LARGEST_INPUT = 20.0  # bound of the inputs of the couplings' networks
PAIRS = 8  # antithetic pairs of base draws, for E[x | h]


class CheckerboardCoupling(nn.Module):
    """Affine coupling of the pixels of one colour of a checkerboard, given those of the other colour and features.

    u' = u on the kept pixels, and exp(s) u + t on the others, with s and t from convolutions of the kept pixels and the
    feature maps, |s| < 2. It starts as the identity.

    Args:
        shape: channels, height, width.
        features: number of feature maps.
        hidden: number of channels of the network's hidden layers.
        parity: 0 or 1, the colour that is kept.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), "Density estimation using Real NVP".
    """

    kept: Tensor

    def __init__(self, shape: Size, features: int, hidden: int, parity: int) -> None:
        super().__init__()
        channel, row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
        self.register_buffer("kept", ((channel + row + column) % 2 == parity).to(torch.get_default_dtype()))
        self.network = nn.Sequential(
            nn.Conv2d(shape[0] + features, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * shape[0], 3, padding=1),
        )
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, u: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute u', (N, C, H, W), and log|det ∂u'/∂u|, (N,)."""
        log_scale, shift = self._affine(u, features)
        return u * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, u: Tensor, features: Tensor) -> Tensor:
        """Compute u from u'."""
        log_scale, shift = self._affine(u, features)
        return (u - shift) * (-log_scale).exp()

    def _affine(self, u: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat((u * self.kept, features), 1).clamp(-LARGEST_INPUT, LARGEST_INPUT)
        log_scale, shift = self.network(seen).chunk(2, 1)
        changed = 1 - self.kept
        return 2 * torch.tanh(log_scale / 2) * changed, shift * changed


class ImageFlowDistribution(TorchDistribution):
    """Images x = loc + scale · T(u), u ~ N(0, I), with T a stack of couplings that read feature maps.

    Args:
        couplings: in the order of the normalizing direction, from the image to the base.
        loc: shape (..., C, H, W).
        scale: of the same shape.
        features: shape (..., F, H, W).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = True

    def __init__(self, couplings: nn.ModuleList, loc: Tensor, scale: Tensor, features: Tensor) -> None:
        self.couplings, self.loc, self.scale, self.features = couplings, loc, scale, features
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> ImageFlowDistribution:
        """Expand the batch shape."""
        parts = (part.expand(*batch_shape, *part.shape[-3:]) for part in (self.loc, self.scale, self.features))
        return ImageFlowDistribution(self.couplings, *parts)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(x | h) in nats, (..., C, H, W) → (...)."""
        batch = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        u = _rows(((value - self.loc) / self.scale).expand(*batch, *self.event_shape))
        features = _rows(self.features.expand(*batch, *self.features.shape[-3:]))
        log_det = -_rows(self.scale.log().expand(*batch, *self.event_shape)).flatten(1).sum(1)
        for coupling in self.couplings:
            u, change = coupling(u, features)
            log_det = log_det + change
        base = -0.5 * (u.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        found: Tensor = (base + log_det).reshape(batch)
        return found

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw images of shape sample_shape + batch shape + (C, H, W)."""
        shape = self._extended_shape(Size(sample_shape))
        return self.push(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def push(self, u: Tensor) -> Tensor:
        """Compute x from base points u of the shape sample_shape + batch shape + (C, H, W)."""
        features = _rows(self.features.expand(*u.shape[:-3], *self.features.shape[-3:]))
        rows = _rows(u)
        for coupling in list(self.couplings)[::-1]:
            assert isinstance(coupling, CheckerboardCoupling)
            rows = coupling.inverse(rows, features)
        return self.loc + self.scale * rows.reshape(u.shape)


class _ImageFlow(Likelihood):
    def __init__(self, shape: Size, units: Units, spec: ImageFlowLikelihood) -> None:
        super().__init__(shape, units)
        self.couplings = nn.ModuleList(
            CheckerboardCoupling(shape, spec.features, spec.hidden, parity=number % 2)
            for number in range(spec.couplings)
        )

    def forward(self, parameters: Tensor) -> ImageFlowDistribution:
        channels = self.shape[0]
        loc, log_scale = parameters[..., :channels, :, :], parameters[..., channels : 2 * channels, :, :]
        scale = self.unit * bounded(log_scale, LEAST_LOG_SCALE, LARGEST_LOG_SCALE).exp()
        features = parameters[..., 2 * channels :, :, :]
        return ImageFlowDistribution(self.couplings, self.center + self.unit * loc, scale, features)

    def mean(self, parameters: Tensor) -> Tensor:
        given = self(parameters)
        with seeded(0):
            u = torch.randn(PAIRS, *given.loc.shape, dtype=given.loc.dtype).to(given.loc.device)
        mean: Tensor = given.expand(Size((2 * PAIRS, *given.batch_shape))).push(torch.cat((u, -u))).mean(0)
        return mean


@dataclass(frozen=True)
class ImageFlowLikelihood(RealUnits, name="image-flow"):
    r"""Real-valued images: a Gaussian whose noise is shaped by a flow that reads the decoder's features.

    x = μ(h) + σ(h) T(u; h) with u ~ N(0, I), so that log p(x | h) = log N(u; 0, I) − Σ log σ + log|det ∂u/∂ε| with
    ε = (x − μ)/σ. The decoder gives μ and log σ of each value and F feature maps; T is a stack of affine couplings on a
    checkerboard, whose convolutions read neighbouring pixels and the features. It starts as `gaussian:each`, and can
    model noise that is neither Gaussian nor independent between pixels. A density or a draw takes one pass of each
    coupling's network.

    E[x | h] has no closed form: the mean is an average over 8 antithetic pairs of draws, the same in every call.

    Args:
        features: F.
        couplings: number of couplings.
        hidden: number of channels of their networks' hidden layers.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Morrow & Chiu (2020), "Variational Autoencoders with Normalizing Flow Decoders".
    """

    features: int = 8
    couplings: int = 4
    hidden: int = 32

    def __post_init__(self) -> None:
        check_int(self, "features")
        check_int(self, "couplings", most=MOST_LAYERS)
        check_int(self, "hidden")

    @property
    def constants(self) -> bool:
        return True

    def parameter_shape(self, shape: Size) -> Size:
        """Return the event shape of the decoder's outputs, (2C + F, H, W).

        Raises:
            FlowvaeError: for data that are not images.
        """
        if len(shape) != 3:
            raise FlowvaeError(f"likelihood {self}: data of shape {tuple(shape)}; must be images (C, H, W).")
        return Size((stacked(shape, 2)[0] + self.features, *shape[1:]))

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _ImageFlow(shape, units, self)


def _rows(images: Tensor) -> Tensor:
    """Reshape (..., C, H, W) to (N, C, H, W)."""
    return images.reshape(-1, *images.shape[-3:])
