"""A small Pyro pair with a condition, and a source, for tests of the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from flowvae.inference import Training
from flowvae.networks import declare_parameters

FAST = Training(epochs=3, batch_size=16, device="cpu", checkpoint_seconds=0.0, validation_draws=2)


def values(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal data of that shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Model(nn.Module):
    """z ~ N(loc, 1), x ~ N(w z + v c, 1) for x of any event shape; keeps the batches that it was called with."""

    def __init__(self, *event: int, condition: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        features = Size(event).numel()
        self.prior = nn.Linear(1, 2, bias=False)
        self.prior.weight.data = torch.randn(2, 1, generator=generator)
        self.w = nn.Parameter(torch.randn(2, features, generator=generator))
        self.v = nn.Parameter(torch.randn(condition, features, generator=generator)) if condition else None
        self.event = event
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, x: Tensor, c: Tensor | None = None, size: int | None = None) -> None:
        declare_parameters("model", self)
        self.seen.append((x,) if c is None else (x, c))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior.weight[:, 0], 1.0).to_event(1))
            mean = z @ self.w
            if c is not None and self.v is not None:
                mean = mean + c @ self.v
            mean = mean.reshape(*mean.shape[:-1], *self.event)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(len(self.event)), obs=x)


class Guide(nn.Module):
    """q(z | x) = N(linear, 1)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2)
        nn.init.constant_(self.encoder.weight, 0.1)
        nn.init.zeros_(self.encoder.bias)

    def forward(self, x: Tensor, c: Tensor | None = None, size: int | None = None) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x.flatten(1)), 1.0).to_event(1))


def pair(*event: int, condition: int = 0) -> nn.ModuleDict:
    """Model and guide with the same weights at every call."""
    return nn.ModuleDict({"model": Model(*event, condition=condition), "guide": Guide(Size(event).numel())})


class Rows:
    """A source over a tensor, which notes how many rows are read at once."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.read: list[int] = []

    @property
    def shape(self) -> Size:
        return self.x.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.read.append(len(index))
        return self.x[index]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self[index] for index in order)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its state."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
