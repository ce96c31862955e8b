"""Conditional distribution of the latent variables inside a plate, given an encoder of the plate's data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Cost, GuideSpec, NetworkSpec
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import FlowSpec
from flowvae.guides.automatic.layout import Layout
from flowvae.guides.automatic.plate_encoder import PlateEncoder
from flowvae.guides.flow import FlowGuide
from flowvae.guides.gaussian import Gaussian
from flowvae.networks import eval_mode

__all__ = ["LocalPart", "build_local", "check_head"]

HIDDEN = 32  # width of the layer in which features and global latents interact


class LocalPart(nn.Module):
    r"""Conditional distribution q(l | x, g) = Π_i q(l_i | features(x)_i, g) of the latents l_i of a plate's points i.

    l_i concatenates the unconstrained values of all latent sites inside the plate: l_i = center + w_i, where the head
    draws w_i given a context. The context is the features e_i alone, or e_i, the standardized global latents v and
    ReLU(A e_i + B v + b). The parameters of a Gaussian head are then linear in e_i and v, plus a joint nonlinear term.

    Args:
        encoder: features of the points.
        head: distribution of w given a context; see `build_local`.
        dim: dimension of the plate, negative.
        initial: initial unconstrained values of each site, of shape (n, 1, …, 1, *event) with −dim batch dimensions.
        features: F, number of features.
        given: number of global latents that the distribution depends on.
    """

    def __init__(
        self, encoder: PlateEncoder, head: GuideSpec, dim: int, initial: Mapping[str, Tensor], features: int, given: int
    ) -> None:
        super().__init__()
        self.dim = dim
        self.shapes = {name: value.shape[-dim:] for name, value in initial.items()}
        rows = torch.cat([value.reshape(len(value), -1) for value in initial.values()], 1)
        self.size = rows.shape[1]
        self.passes = head.cost(self.size)
        self.encoder = encoder
        self.context = _Context(features, given)
        self.head: LazyDistribution = head.build(self.size, self.context.size)
        self.center: Tensor
        self.register_buffer("center", rows.mean(0))
        for own in (self.context, self.head):
            own.to(rows)

    @property
    def plate(self) -> str:
        """Name of the plate."""
        return self.encoder.plate

    def cost(self) -> Cost:
        """Network passes of the head."""
        return self.passes

    def draw(
        self, name: str, plate: Any, given: Tensor | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Draw the auxiliary site `name` in a plate; return the unconstrained values by site, (…, n, 1, …, 1, *event).

        Args:
            name: name of the auxiliary site, of shape (…, n, 1, …, 1, D).
            plate: the plate, in this run of the guide.
            given: standardized global latents, shape (…, G).
            args: the model's arguments.
            kwargs: its keyword arguments.
        """
        features = self.encoder(args, kwargs, plate.size, plate.indices).to(self.center)
        posterior = self.posterior(features, given)
        with plate:
            drawn = self.center + pyro.sample(name, posterior, infer={"is_auxiliary": True})
        found, start = {}, 0
        for site, shape in self.shapes.items():
            numbers = drawn[..., start : start + math.prod(shape)]
            found[site] = numbers.reshape(*drawn.shape[:-1], *shape)
            start += math.prod(shape)
        return found

    def posterior(self, features: Tensor, given: Tensor | None) -> TorchDistribution:
        """Return the distribution of w, batch shape (…, n, 1, …, 1), for features (n, F) and global latents (…, G)."""
        features = features.reshape(len(features), *(1,) * (-self.dim - 1), features.shape[-1])
        return to_pyro(self.head(self.context(features, given)))


class _Context(nn.Module):
    """Features, or features, global latents and a layer that combines them: (…, F), (…, G) → (…, F + G + 32)."""

    def __init__(self, features: int, given: int) -> None:
        super().__init__()
        self.size = features
        self.of_features = self.of_given = None
        if given:
            self.size = features + given + HIDDEN
            self.of_features = nn.Linear(features, HIDDEN)
            self.of_given = nn.Linear(given, HIDDEN, bias=False)

    def forward(self, features: Tensor, given: Tensor | None) -> Tensor:
        if self.of_features is None or self.of_given is None or given is None:
            return features
        together = torch.relu(self.of_features(features) + self.of_given(given))
        lead = together.shape[:-1]
        return torch.cat([features.expand(*lead, -1), given.expand(*lead, -1), together], -1)


def build_local(
    plate: str,
    network: NetworkSpec | nn.Module,
    head: FlowSpec | GuideSpec,
    layout: Layout,
    given: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> LocalPart:
    """Build the conditional distribution of the latents inside a plate.

    Args:
        plate: name of the plate.
        network: its encoder.
        head: distribution of the latents of a point given a context, or a flow: the flow conditioned on the context,
            or a Gaussian for fewer numbers than the flow needs.
        layout: the latent sites.
        given: number of global latents that the distribution depends on.
        args: the model's arguments.
        kwargs: its keyword arguments.

    Raises:
        FlowvaeError: for a network that does not give features of the plate's points.
    """
    initial, frame = layout.within(plate), layout.frame(plate)
    encoder = PlateEncoder(plate, network, args)
    with torch.no_grad(), eval_mode(encoder):
        features = encoder(args, kwargs, frame.full_size or frame.size, torch.arange(frame.size)).shape[1]
    if isinstance(head, FlowSpec):
        size = sum(value[0].numel() for value in initial.values())
        head = FlowGuide(head) if size >= head.least_features else Gaussian()
    return LocalPart(encoder, head, frame.dim, initial, features, given)


def check_head(local: object) -> None:
    """Check the setting `AutoFlow.local`.

    Raises:
        FlowvaeError: if it is not None or settings of a guide, or the guide changes with the model's density.
    """
    if local is None:
        return
    if not isinstance(local, GuideSpec):
        raise FlowvaeError(f"AutoFlow.local = {shown(local)}: must be a guide, such as Gaussian(), or None.")
    if local.follows_model:
        raise FlowvaeError(
            f"AutoFlow.local = {shown(local)}: changes with the model's density, which AutoFlow does not support; use "
            "Gaussian(), FullRank() or FlowGuide(flow)."
        )
