"""Autoregressive prior of codes that are sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int
from flowvae.core.parts import Cost, PriorSpec
from flowvae.models.priors.mixture import WIDTH
from flowvae.networks import CausalSequence, WaveNet

__all__ = ["SequenceDistribution", "SequencePrior"]

MOST_LOG_SCALE = 7.0  # softly bounds |log σ|


class SequenceDistribution(TorchDistribution):
    """Autoregressive mixtures p(z) = Π_t Σ_k w_k N(z_t; μ_k, σ_k²), with w, μ, σ from earlier steps and the context.

    Args:
        owner: the network, and the layout of a code.
        context: shape (..., width), whose batch shape is the distribution's; None: no context.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, owner: LazySequence, context: Tensor | None = None) -> None:
        self.owner = owner
        self.context = context
        batch = Size() if context is None else context.shape[:-1]
        super().__init__(batch, Size((owner.features,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> SequenceDistribution:
        """Expand the batch shape."""
        new = SequenceDistribution(self.owner, self.context)
        TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(value) in nats, (..., D) → (...), in one pass of the network."""
        batch = value.shape[:-1]
        if self.context is not None:
            batch = torch.broadcast_shapes(batch, self.context.shape[:-1])
        z = self.owner.steps(value.expand(*batch, -1).reshape(-1, value.shape[-1]))
        logits, loc, log_scale = self.owner.split(self.owner.network.sequences(z, self._context(batch)))
        standard = (z.unsqueeze(-2) - loc) * (-log_scale).exp()
        each = -0.5 * (standard.square() + math.log(2 * math.pi)) - log_scale
        log_p = (logits.log_softmax(-1) + each.sum(-1)).logsumexp(-1).sum(-1).reshape(batch)
        # copies made by a plate share one pass of the network
        return log_p.expand(torch.broadcast_shapes(batch, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw codes of shape sample_shape + batch shape + (D,), without a gradient, in T steps of the network.

        The inputs of the layers at earlier steps are cached.
        """
        batch = self._extended_shape(Size(sample_shape))[:-1]
        owner, context = self.owner, self._context(batch)
        z = owner.network.place.new_zeros(batch.numel(), owner.numbers)
        cache: list[list[Tensor]] = [[] for _ in owner.network.layers]
        drawn = []
        for place in range(owner.network.features):
            logits, loc, log_scale = owner.split(owner.network.step(place, z, context, cache))
            chosen = torch.multinomial(logits.softmax(-1), 1)[..., None].expand(-1, 1, owner.numbers)
            mean, spread = (part.gather(1, chosen).squeeze(1) for part in (loc, log_scale.exp()))
            z = mean + spread * torch.randn_like(mean)
            drawn.append(z)
        return owner.code(torch.stack(drawn, 1)).reshape(*batch, -1)

    def _context(self, batch: Size) -> Tensor | None:
        """Return the context of each row of a batch of that shape."""
        if self.context is None:
            return None
        width = self.context.shape[-1]
        return self.context.expand(*batch, width).reshape(-1, width)


class LazySequence(LazyDistribution):
    """Lazy autoregressive prior: its network, and the layout of a flat code as a sequence.

    Args:
        spec: the settings.
        shape: shape of a code: (T,), (T, C) or (C, H, W).
        context: size of the context; 0: none.
    """

    def __init__(self, spec: SequencePrior, shape: Size, context: int) -> None:
        super().__init__()
        self.features = shape.numel()
        self.is_image = len(shape) == 3
        self.numbers = shape[0] if self.is_image else Size(shape[1:]).numel()
        self.sizes = [spec.components, *[spec.components * self.numbers] * 2]  # of logits, locations and log-scales
        self.network: CausalSequence = spec.wavenet.network(
            self.features // self.numbers, self.numbers, sum(self.sizes), context
        )
        last = self.network.output[-1]
        assert isinstance(last, nn.Conv1d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if spec.components > 1:  # equal components would stay equal
            with torch.no_grad():
                _, loc, log_scale = last.bias.split(self.sizes)
                loc.normal_(std=math.sqrt(1 - WIDTH**2))
                log_scale.fill_(math.log(WIDTH) / (1 + math.log(WIDTH) / MOST_LOG_SCALE))

    def forward(self, c: Tensor | None = None) -> SequenceDistribution:
        return SequenceDistribution(self, c)

    def steps(self, z: Tensor) -> Tensor:
        """Reshape flat codes (N, D) to sequences (N, T, C)."""
        if self.is_image:
            return z.unflatten(-1, (self.numbers, -1)).transpose(1, 2)
        return z.unflatten(-1, (-1, self.numbers))

    def code(self, steps: Tensor) -> Tensor:
        """Reshape sequences (N, T, C) to flat codes (N, D)."""
        return (steps.transpose(1, 2) if self.is_image else steps).flatten(1)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split outputs (..., K (1 + 2 C)) into logits (..., K), locations and log-scales (..., K, C)."""
        logits, loc, log_scale = parameters.split(self.sizes, -1)
        log_scale = log_scale / (1 + (log_scale / MOST_LOG_SCALE).abs())
        return logits, *(part.unflatten(-1, (-1, self.numbers)) for part in (loc, log_scale))


@dataclass(frozen=True)
class SequencePrior(PriorSpec, name="sequence"):
    """Autoregressive prior of a code that is a sequence, p(z) = Π_t p(z_t | z_1, …, z_{t−1}).

    A code of shape (T, C) has T steps of C numbers, (T,) has T steps of one number, and (C, H, W) the H·W positions of
    an image in raster order. The conditional of a step is a mixture of Gaussians over its C numbers, with diagonal
    covariances; its parameters come from causal dilated convolutions (`WaveNet`) over the steps before. A step
    therefore depends on the `receptive_field` steps before it.

    With one component it starts as N(0, I), and otherwise with about that mean and variance. The density takes one
    pass; a draw takes T steps with cached layer inputs. Draws have no gradient, so it cannot be a guide.

    The prior of RAVE is of this kind, with categorical conditionals of quantized codes; here the density is that of
    real numbers.

    Args:
        components: number of Gaussians.
        channels: number of channels of the convolutions.
        dilations: dilations of the convolutions.
        kernel: kernel size of the convolutions.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Caillon & Esling (2021), "RAVE: A variational autoencoder for fast and high-quality neural audio synthesis".
    """

    title: ClassVar[str] = "autoregressive over a sequence of codes (T, C), by causal convolutions"
    paper: ClassVar[str] = "Caillon & Esling 2021"
    shaped: ClassVar[bool] = True

    components: int = 5
    channels: int = 32
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    kernel: int = 2

    def __post_init__(self) -> None:
        check_int(self, "components")
        _ = self.wavenet  # checks the network's settings

    @property
    def wavenet(self) -> WaveNet:
        """Settings of the network."""
        return WaveNet(self.channels, self.dilations, self.kernel)

    @property
    def receptive_field(self) -> int:
        """Number of earlier steps on which a step depends.

        >>> SequencePrior().receptive_field
        16
        """
        return self.wavenet.receptive_field

    def build(self, features: int | Size, context: int = 0) -> LazyDistribution:
        """Build the distribution over flat codes, from their size or their shape.

        Raises:
            FlowvaeError: for a shape of more than three axes.
        """
        shape = Size((features,)) if isinstance(features, int) else Size(features)
        if len(shape) > 3:
            raise FlowvaeError(
                f"latent = {tuple(shape)} with {type(self).__name__}: must be (T,), (T, C) or (C, H, W)."
            )
        return LazySequence(self, shape, context)

    def cost(self, features: int) -> Cost:
        """Passes of the network; a step counts as one, and there are `features` steps at most."""
        return Cost(density=1, sample=features, sample_and_density=features + 1)
