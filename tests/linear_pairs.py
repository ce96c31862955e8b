"""Linear-Gaussian pairs in plain Pyro whose log p(x) is known: two latent sites, and a condition."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def _matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class TwoLevels:
    """top ~ N(0, I), below ~ N(A top, s² I), x ~ N(W below, σ² I), with a guide q(below | x) q(top | below).

    Args:
        shape: event shape of x.
        shift: of the guide's means, in units of its scales; 0: the exact conditional.
        factor: of the guide's scales; 1: the exact conditional.
    """

    shape: tuple[int, ...] = (5,)
    shift: float = 0.0
    factor: float = 1.0
    s: float = 0.7
    noise: float = 0.6
    a: Tensor = field(default_factory=lambda: _matrix(3, 2, 1))

    @cached_property
    def w(self) -> Tensor:
        return _matrix(math.prod(self.shape), 3, 2)

    @property
    def covariance(self) -> Tensor:
        """Of `below`: A Aᵀ + s² I."""
        return self.a @ self.a.T + self.s**2 * torch.eye(3, dtype=torch.float64)

    def model(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            top = pyro.sample("top", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            below = pyro.sample("below", dist.Normal(top @ self.a.T, self.s).to_event(1))
            mean = (below @ self.w.T).reshape(*below.shape[:-1], *self.shape)
            return pyro.sample("x", dist.Normal(mean, self.noise).to_event(len(self.shape)), obs=x)

    def guide(self, x: Tensor) -> None:
        precision = torch.linalg.inv(self.covariance) + self.w.T @ self.w / self.noise**2
        scale = torch.linalg.cholesky(torch.linalg.inv(precision))
        with pyro.plate("data", len(x)):
            mean = torch.linalg.solve(precision, self.w.T @ x.flatten(1).T / self.noise**2).T
            below = pyro.sample("below", self._around(mean, scale))
            precision = torch.eye(2, dtype=torch.float64) + self.a.T @ self.a / self.s**2
            scale = torch.linalg.cholesky(torch.linalg.inv(precision))
            mean = torch.linalg.solve(precision, self.a.T / self.s**2) @ below.unsqueeze(-1)
            pyro.sample("top", self._around(mean.squeeze(-1), scale))

    def _around(self, mean: Tensor, scale: Tensor) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(mean + self.shift * scale.sum(-1), scale_tril=self.factor * scale)

    def data(self, size: int, seed: int = 0) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model(size=size)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Log N(x; 0, W (A Aᵀ + s² I) Wᵀ + σ² I), shape (N,)."""
        identity = torch.eye(len(self.w), dtype=torch.float64)
        covariance = self.w @ self.covariance @ self.w.T + self.noise**2 * identity
        return dist.MultivariateNormal(torch.zeros(len(self.w), dtype=torch.float64), covariance).log_prob(x.flatten(1))


@dataclass(frozen=True)
class Conditional:
    """h ~ N(B c, I), x ~ N(W h + V c, σ² I), with a guide that reads x and c; the latent site is called "h"."""

    factor: float = 1.0
    noise: float = 0.6
    w: Tensor = field(default_factory=lambda: _matrix(4, 2, 3))
    b: Tensor = field(default_factory=lambda: _matrix(2, 3, 4))
    v: Tensor = field(default_factory=lambda: _matrix(4, 3, 5))

    def model(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        assert c is not None
        with pyro.plate("data", size if x is None else len(x)):
            h = pyro.sample("h", dist.Normal(c @ self.b.T, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(h @ self.w.T + c @ self.v.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        precision = torch.eye(2, dtype=torch.float64) + self.w.T @ self.w / self.noise**2
        pull = c @ self.b.T + (x - c @ self.v.T) @ self.w / self.noise**2
        scale = self.factor * torch.linalg.cholesky(torch.linalg.inv(precision))
        with pyro.plate("data", len(x)):
            pyro.sample("h", dist.MultivariateNormal(torch.linalg.solve(precision, pull.T).T, scale_tril=scale))

    def log_evidence(self, x: Tensor, c: Tensor) -> Tensor:
        """Log N(x; (W B + V) c, W Wᵀ + σ² I), shape (N,)."""
        covariance = self.w @ self.w.T + self.noise**2 * torch.eye(4, dtype=torch.float64)
        return dist.MultivariateNormal(c @ (self.w @ self.b + self.v).T, covariance).log_prob(x)
