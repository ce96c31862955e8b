"""Causal transformer over a sequence of tokens, with a cache of keys and values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Cache", "CausalTransformer"]

Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (N, heads, tokens so far, width / heads)

WIDENING = 4  # ratio of the width of a perceptron's hidden layer to that of the transformer
SPREAD = 0.02  # standard deviation of the initial embeddings of positions


class CausalTransformer(nn.Module):
    """Causal transformer: output t depends on the tokens before t and on the context.

    The network reads the tokens shifted by one place. Its layers normalize, attend to this place and the ones before
    it, normalize again, and apply a perceptron with one hidden layer, both with residual connections. Places have
    learned embeddings, and the context is added to every token. The last layer starts at zero.

    Args:
        tokens: T.
        inputs: S, the number of values in a token.
        outputs: P, the number of outputs per token.
        context: size of the context; 0: none.
        width: width of every layer, a multiple of `heads`.
        layers: number of layers.
        heads: number of attention heads.

    References:
        Vaswani et al. (2017), "Attention Is All You Need"; Radford et al. (2019), "Language Models are Unsupervised
        Multitask Learners" (normalization before each part of a layer).
    """

    def __init__(
        self, tokens: int, inputs: int, outputs: int, context: int, *, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.token = nn.Linear(inputs, width)
        self.place = nn.Parameter(SPREAD * torch.randn(tokens, width))
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def embed(self, c: Tensor | None) -> Tensor:
        """Embed the context (..., C) as a shift of every token, shape (..., 1, width)."""
        if self.context is None:
            return self.place.new_zeros(1, self.place.shape[1])
        shift: Tensor = self.context(c)
        return shift.unsqueeze(-2)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Compute the outputs (..., T, P) for all tokens (..., T, S) in one pass.

        Args:
            x: the tokens.
            shift: `embed` of the context, whose batch shape broadcasts with that of the tokens.
        """
        h = F.pad(self.token(x[..., :-1, :]), (0, 0, 1, 0)) + self.place + shift
        rows = h.reshape(-1, *h.shape[-2:])
        for layer in self.layers:
            rows = layer(rows)
        out: Tensor = self.output(self.norm(rows))
        return out.reshape(*h.shape[:-1], -1)

    def step(self, place: int, before: Tensor, shift: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Compute the output (N, P) for the token at one place, from the token before it and the cache.

        Args:
            place: index of the token.
            before: the token before it, (N, S); ignored for the first token, except for its shape.
            shift: `embed` of the context of each row, shape (N, 1, width) or (1, width).
            cache: the cache that the previous step returned; an empty list for the first token.
        """
        read = self.token(before) if place else before.new_zeros(len(before), self.place.shape[1])
        h = read.unsqueeze(1) + self.place[place] + shift
        longer: Cache = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            h, both = layer.step(h, cache[index] if cache else None)
            longer.append(both)
        out: Tensor = self.output(self.norm(h))
        return out.squeeze(1), longer


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, WIDENING * width), nn.GELU(), nn.Linear(WIDENING * width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self._heads(h)
        later = torch.full((h.shape[1],) * 2, -torch.inf, dtype=h.dtype, device=h.device).tril(-1)
        return self._after(h, _attend(q, k, v, later))

    def step(self, h: Tensor, cache: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = self._heads(h)
        if cache is not None:
            k, v = (torch.cat(pair, 2) for pair in zip(cache, (k, v), strict=True))
        return self._after(h, _attend(q, k, v)), (k, v)

    def _heads(self, h: Tensor) -> tuple[Tensor, ...]:
        """Compute queries, keys and values, each (N, heads, T, width / heads)."""
        each = self.read(self.norms[0](h)).unflatten(-1, (3, self.heads, -1))
        return each.permute(2, 0, 3, 1, 4).unbind(0)

    def _after(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.write(attended.transpose(1, 2).flatten(2))
        out: Tensor = h + self.perceptron(self.norms[1](h))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average values (N, heads, K, d) with weights from keys (N, heads, K, d) and queries (N, heads, Q, d).

    For few tokens it is as fast as torch's fused kernel, which has no second derivatives. Weights are of shape (K, Q),
    since torch's softmax over a short last axis is slow.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: added to the logits, shape (K, Q); None: no mask.
    """
    logits = k @ q.transpose(-2, -1) * q.shape[-1] ** -0.5
    weights = (logits if mask is None else logits + mask).softmax(-2)
    return weights.transpose(-2, -1) @ v
