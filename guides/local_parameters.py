"""Local parameters of a guide's head: reading and replacing them.

A head builds its distribution from the data point alone, before any code is drawn. The outputs of the linear layers
that run in it therefore belong to one data point: location and scale of a Gaussian, the context or the parameters of
a conditioned flow. They are the head's *local parameters*, the λ_n of stochastic variational inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from zuko.distributions import NormalizingFlow
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError

__all__ = ["LINEAR", "distribution_at", "local_parameters", "push", "sobol_normal"]

LINEAR = (nn.Linear, zuko.nn.Linear)


def local_parameters(head: LazyDistribution, features: Tensor) -> dict[str, Tensor]:
    """Compute the local parameters of a head, by name of their layer.

    Args:
        head: a guide's head.
        features: features of an encoder, shape (N, context).

    Returns:
        Tensors of shape (N, ...), with gradients to head and features.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        found[name] = output

    with _outputs(head, keep):
        head(features)
    return found


def distribution_at(head: LazyDistribution, features: Tensor, local: Mapping[str, Tensor]) -> Distribution:
    """Build the head's distribution for features (N, context), with given values of its local parameters."""

    def replace(name: str, output: Tensor) -> Tensor:
        return local[name]

    with _outputs(head, replace):
        return head(features)


def push(q: Distribution, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from q with given noise ε ~ N(0, I); returns the draws and their log-densities in nats.

    Args:
        q: a Gaussian, or a Gaussian pushed through a flow, of batch shape (N,).
        noise: shape (S, 1, D), the same for every data point, or (S, N, D).

    Raises:
        FlowvaeError: for a distribution of another kind.
    """
    if isinstance(q, NormalizingFlow):
        start, log_prob = push(q.base, noise)
        z, log_det = q.transform.inv.call_and_ladj(start)
        return z, log_prob - log_det
    if isinstance(q, MultivariateNormal):
        z = q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    elif isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        z = q.base_dist.loc + q.base_dist.scale * noise
    else:
        raise FlowvaeError(
            f"{type(q).__name__}: its draws cannot be computed from given Gaussian noise; use a guide that is "
            "Gaussian, full-rank, or one of them pushed through a flow."
        )
    return z, q.log_prob(z)


def sobol_normal(draws: int, features: int, seed: int, like: Tensor) -> Tensor:
    """Quasi-random noise for S = `draws` draws, shape (S, 1, D); each draw is N(0, I).

    The noise comes from a randomly scrambled Sobol sequence. Averages over it are unbiased, as over independent
    draws, with far less variance, above all if S is a power of 2.

    Args:
        draws: S.
        features: D.
        seed: seed of the scrambling.
        like: a tensor with the device and dtype of the result. The numbers are the same on every device.

    References:
        Buchholz, Wenzel & Mandt (2018), "Quasi-Monte Carlo Variational Inference".
    """
    points = torch.quasirandom.SobolEngine(features, scramble=True, seed=seed).draw(draws, dtype=torch.float64)
    # points are multiples of 2⁻³⁰, and 0 may be among them
    return torch.special.ndtri(points + 2.0**-31).unsqueeze(1).to(like)


@contextmanager
def _outputs(head: nn.Module, hook: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call a function with the name and output of every linear layer; a tensor that it returns replaces the output."""
    handles = [
        module.register_forward_hook(lambda _module, _input, output, name=name: hook(name, output))
        for name, module in head.named_modules()
        if isinstance(module, LINEAR)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
