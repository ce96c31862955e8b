"""The latent sites of a data point as one vector in R^D, the state of a Hamiltonian chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data.batch import Batch
from flowvae.guides.automatic.supports import support_of
from flowvae.inference.log_density import latent_nodes, log_densities, sample_latents, trace_sites

__all__ = ["LatentDistribution", "LatentVector", "check_unbounded"]


@dataclass(frozen=True)
class LatentVector:
    """The layout of the latent sites in one vector.

    Args:
        shapes: event shape of each site, in the vector's order.
    """

    shapes: Mapping[str, Size]

    @classmethod
    def of(cls, model: Callable[..., Any], batch: Batch, values: Mapping[str, Tensor]) -> LatentVector:
        """The vector of a model's latent sites.

        Args:
            model: Pyro model.
            batch: N data points.
            values: values of the latent sites, shape (1, N, *event shape).

        Raises:
            FlowvaeError: for a model without latent sites, or a site whose support is not all of R^n.
        """
        nodes = latent_nodes(trace_sites(model, batch, {name: value[0] for name, value in values.items()}))
        if not nodes:
            raise FlowvaeError("the model has no latent site: its log-density is log p(x); use that instead.")
        check_unbounded("model", nodes)
        return cls({name: node["fn"].event_shape for name, node in nodes.items()})

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Concatenate values of shape (S, N, *event shape) to vectors of shape (S, N, D)."""
        return torch.cat([values[name].reshape(*values[name].shape[:2], -1) for name in self.shapes], dim=-1)

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Split vectors of shape (S, N, D) into the values of the sites."""
        if list(self.shapes.values()) == [z.shape[-1:]]:
            return dict.fromkeys(self.shapes, z)  # no operation to differentiate
        parts = z.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(*z.shape[:2], *shape) for (name, shape), part in pairs}


class LatentDistribution:
    """The joint distribution of a program's latent sites over vectors: q(z | x) of a guide, or a model's prior.

    Args:
        program: Pyro model or guide.
        batch: N data points.
        vector: layout of the model's latent sites.
        values: values of the latent sites for one draw, shape (1, N, *event shape).

    Attributes:
        nodes: the latent sites of the program's trace at these values.
    """

    def __init__(
        self, program: Callable[..., Any], batch: Batch, vector: LatentVector, values: Mapping[str, Tensor]
    ) -> None:
        self.program = program
        self.batch = batch
        self.vector = vector
        self.nodes = latent_nodes(trace_sites(program, batch, {name: value[0] for name, value in values.items()}))
        # the distribution of a single site depends on no other site, so the program need not run again
        self.only = next(iter(self.nodes.values()))["fn"] if len(self.nodes) == 1 else None

    def sample(self, shape: tuple[int]) -> Tensor:
        """Draw vectors, shape (S, N, D)."""
        if self.only is None:
            return self.vector.join(sample_latents(self.program, self.batch, *shape))
        (name,) = self.vector.shapes
        return self.vector.join({name: self.only.sample(shape)})

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats at vectors (S, N, D), shape (S, N)."""
        values = self.vector.split(z)
        if self.only is None:
            return log_densities(self.program, self.batch, values).latent
        log_prob: Tensor = self.only.log_prob(*values.values())
        return log_prob


def check_unbounded(owner: str, nodes: Mapping[str, Any]) -> None:
    """Check that the support of every latent site is R^n.

    Args:
        owner: "model" or "guide".
        nodes: latent sites of a trace.

    Raises:
        FlowvaeError: for a site with another support.
    """
    for name, node in nodes.items():
        try:
            support = support_of(node["fn"])
        except NotImplementedError:
            support = None
        inner = support
        while isinstance(inner, constraints.independent):
            inner = inner.base_constraint
        if inner is not constraints.real:
            raise FlowvaeError(
                f"site {name!r} of the {owner}: support {support}; Hamiltonian chains need all of R^n. Write the "
                "site as a transformation of an unbounded one, such as the exponential of a Normal."
            )
