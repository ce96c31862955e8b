"""What a guide's head makes of one datum: parameters that can be taken out, changed and put back.

While a head builds its distribution it has seen the datum and no code yet. So the outputs of the linear layers that
run in it belong to the datum alone: location and scale of a Gaussian, the context or the parameters of a conditioned
flow. They are the head's *local parameters*, the λ_n of stochastic variational inference.
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
    """The local parameters, by the names of the layers that give them.

    Args:
        head: a guide's head.
        features: of an encoder, shape (N, context).

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
    """The head's distribution for features (N, context), with other values of its local parameters."""

    def replace(name: str, output: Tensor) -> Tensor:
        return local[name]

    with _outputs(head, replace):
        return head(features)


def push(q: Distribution, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws from q made of given noise ε ~ N(0, I), and their log-densities in nats.

    Args:
        q: a Gaussian, or a Gaussian pushed through a flow, of batch shape (N,).
        noise: shape (S, 1, D), the same for every datum, or (S, N, D).

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
            f"{type(q).__name__}: its draws cannot be made of given Gaussian noise; a guide with local parameters "
            "is Gaussian, full-rank, or one of them pushed through a flow."
        )
    return z, q.log_prob(z)


def sobol_normal(draws: int, features: int, seed: int, like: Tensor) -> Tensor:
    """Noise for S = `draws` draws that fill the space evenly, shape (S, 1, D); each of them is N(0, I).

    Sobol points, scrambled at random: averages over them are unbiased as those over independent draws are, with far
    less variance, above all where S is a power of 2.

    Args:
        draws: S.
        features: D.
        seed: decides the scrambling.
        like: gives device and dtype. The numbers are the same on every device.

    References:
        Buchholz, Wenzel & Mandt (2018), "Quasi-Monte Carlo Variational Inference".
    """
    points = torch.quasirandom.SobolEngine(features, scramble=True, seed=seed).draw(draws, dtype=torch.float64)
    # points are multiples of 2⁻³⁰, and 0 may be among them
    return torch.special.ndtri(points + 2.0**-31).unsqueeze(1).to(like)


@contextmanager
def _outputs(head: nn.Module, hook: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Show every linear layer's output to a function; what that returns, if anything, takes its place."""
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
