"""TarFlow: a transformer autoregressive flow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.nn import functional as F
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.transforms import AutoregressiveTransform, DependentTransform, MonotonicAffineTransform

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_int
from flowvae.core.parts import Cost
from flowvae.flows.layers.causal_transformer import Cache, CausalTransformer
from flowvae.flows.spec import FlowSpec

__all__ = ["TarFlow"]

MOST_TOKENS = 16  # default maximum: attention costs the square of the number, and a draw takes one step per token


@dataclass(frozen=True)
class TarFlow(FlowSpec, name="tarflow"):
    r"""Transformer autoregressive flow: z is cut into tokens, and a causal transformer gives their affine maps.

    u_t = exp(a_t(z_{<t})) ⊙ z_t + b_t(z_{<t}) for the tokens t = 1, …, T of a code, with log|det ∂u/∂z| = Σ a. Each
    transform has its own transformer, and the order of the tokens is reversed each time. The flow starts as the
    identity.

    The values of a token do not depend on each other within a transform. Tokens are therefore neighbouring values in
    the 1st, 3rd, … transform, and values that are T apart in the others: a code of shape (H·W tokens, channels) or
    (C, H, W) is cut into its positions in one of the two. The paper takes patches of an image in every transform, and
    leaves the first token unchanged; here the first token's map is learned, and depends on a condition. If D is not a
    multiple of the size of a token, some tokens have fewer values.

    The density takes one pass per transform. A draw takes T steps per transform; keys and values of earlier tokens are
    cached, so that the T steps together compute about as much as one pass. `cost` counts a step as a pass.

    Args:
        transforms: number of transforms.
        token: number of values per token; none: the smallest number that gives at most 16 tokens.
        width: width of the transformers, a multiple of `heads`.
        layers: number of layers of each transformer.
        heads: number of attention heads.

    Raises:
        FlowvaeError: for settings out of range, or a code that is a single token.

    References:
        Zhai et al. (2024), "Normalizing Flows are Capable Generative Models".

    >>> TarFlow(transforms=2).cost(features=8)
    Cost(density=2, sample=16, sample_and_density=18)
    """

    title: ClassVar[str] = "transformer autoregressive flow"
    paper: ClassVar[str] = "Zhai et al. 2024"

    transforms: int = 2
    token: int | None = None
    width: int = 32
    layers: int = 1
    heads: int = 2

    def __post_init__(self) -> None:
        for name in ("transforms", "layers"):
            check_int(self, name, most=MOST_LAYERS)
        for name in ("width", "heads"):
            check_int(self, name)
        if self.token is not None:
            check_int(self, "token")
        if self.width % self.heads:
            raise FlowvaeError(
                f"TarFlow.width = {self.width} with heads = {self.heads}: must be a multiple of the number of heads."
            )

    def sizes(self, features: int) -> tuple[int, int]:
        """Return the number T of tokens of a code (features,), and the number of values in each."""
        size = self.token or -(-features // MOST_TOKENS)
        return -(-features // size), size

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        tokens, size = self.sizes(features)
        if tokens < 2:
            raise FlowvaeError(
                f"TarFlow.token = {self.token} with latent = {features}: gives one token, whose values would not "
                f"depend on each other; use {features // 2} or less."
            )
        return LazyComposedTransform(
            *(
                _Transform(
                    features,
                    _places(features, tokens, size, step % 2 == 1),
                    size,
                    CausalTransformer(
                        tokens, size, 2 * size, context, width=self.width, layers=self.layers, heads=self.heads
                    ),
                )
                for step in range(self.transforms)
            )
        )

    def cost(self, features: int) -> Cost:
        steps, tokens = self.transforms, self.sizes(features)[0]
        return Cost(density=steps, sample=steps * tokens, sample_and_density=steps * (tokens + 1))


def _places(features: int, tokens: int, size: int, odd: bool) -> Tensor:
    """Compute the place of each value in the sequence of tokens, shape (D,): token · size + index within the token."""
    value = torch.arange(features)
    if odd:
        return (tokens - 1 - value % tokens) * size + value // tokens
    return value


class _Transform(LazyTransform):
    places: Tensor
    values: Tensor

    def __init__(self, features: int, places: Tensor, size: int, network: CausalTransformer) -> None:
        super().__init__()
        self.network = network
        self.shape = network.tokens, size
        values = torch.full((network.tokens * size,), features)  # an empty place reads the zero after the code
        values[places] = torch.arange(features)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("values", values, persistent=False)

    def forward(self, c: Tensor | None = None) -> TokenTransform:
        return TokenTransform(self, self.network.embed(c))


class TokenTransform(AutoregressiveTransform):
    """One transform of a code given a context: one pass for z → u, one step per token for u → z.

    Args:
        owner: the network, and the places of the values in the sequence of tokens.
        shift: the embedded context, which is added to the tokens, shape (..., 1, width).
    """

    def __init__(self, owner: _Transform, shift: Tensor) -> None:
        super().__init__(partial(_at, owner, shift), passes=owner.network.tokens)
        self.owner = owner
        self.shift = shift

    def _inverse(self, y: Tensor) -> Tensor:
        network, batch = self.owner.network, y.shape[:-1]
        shift = self.shift
        if shift.ndim > 2:
            batch = torch.broadcast_shapes(batch, shift.shape[:-2])
            y = y.expand(*batch, y.shape[-1])
            shift = shift.expand(*batch, *shift.shape[-2:]).reshape(-1, *shift.shape[-2:])
        u = _tokens(self.owner, y).reshape(-1, *self.owner.shape)
        real = (self.owner.values < y.shape[-1]).unflatten(0, self.owner.shape)
        found: list[Tensor] = []
        before, cache = torch.zeros_like(u[:, 0]), Cache()
        for place in range(network.tokens):
            parameters, cache = network.step(place, before, shift, cache)
            before = MonotonicAffineTransform(*parameters.chunk(2, -1)).inv(u[:, place])
            before = torch.where(real[place], before, 0.0)  # empty places are zero, as in `_tokens`
            found.append(before)
        return torch.cat(found, -1)[:, self.owner.places].reshape(*batch, -1)


def _tokens(owner: _Transform, z: Tensor) -> Tensor:
    """Cut a code (..., D) into tokens (..., T, S); empty places are zero."""
    return F.pad(z, (0, 1))[..., owner.values].unflatten(-1, owner.shape)


def _at(owner: _Transform, shift: Tensor, z: Tensor) -> Transform:
    """Return the affine map of all values, with parameters that depend on the earlier tokens of z."""
    parameters: Tensor = owner.network(_tokens(owner, z), shift)
    shifts, scales = (part.flatten(-2)[..., owner.places] for part in parameters.chunk(2, -1))
    return DependentTransform(MonotonicAffineTransform(shifts, scales), 1)
