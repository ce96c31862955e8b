"""The flow over one unconstrained vector: a flow in standardized space, and an affine layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from zuko.lazy import Flow, LazyComposedTransform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.memory import watched
from flowvae.flows.spec import FlowSpec, standard_normal, warn_if_slow
from flowvae.guides.automatic.affine import AffineLayer

__all__ = ["AFFINE", "build_joint_flow"]

AFFINE = ("auto", "full", "diagonal")
FULL = 1000  # number of latents above which a full affine layer costs more time than it saves


def build_joint_flow(flow: FlowSpec, loc: Tensor, init_scale: float, affine: str, alone: bool) -> Flow:
    """Build the joint flow; it starts as N(loc, init_scale² I) if the family starts as the identity.

    Args:
        flow: the family.
        loc: location, shape (D,), whose dtype and device the flow gets.
        init_scale: standard deviation.
        affine: "full", "diagonal" or "auto", see `AutoFlow`.
        alone: whether these are all latent numbers of the model. If not, the affine layer learns in units of 1, because
            `fit_autoguide` sets no others, and it is the whole flow if D is less than the family needs.

    Raises:
        FlowvaeError: for fewer numbers than the flow needs, or more than fit into memory.
    """
    size = len(loc)
    if alone and not size:
        raise FlowvaeError("AutoFlow over a model without latent numbers: there is nothing to draw; use no guide.")
    if alone and size < flow.least_features:
        raise FlowvaeError(
            f"AutoFlow over a model with {size} unconstrained latent number(s): {type(flow).__name__} makes "
            f"dimensions dependent and needs {flow.least_features} or more. Use "
            "pyro.infer.autoguide.AutoNormal."
        )
    full = affine == "full" or (affine == "auto" and size <= FULL)
    remedy = "use a flow with fewer hidden features" + (", or affine='diagonal'" if full else "")
    with watched(f"AutoFlow over {size} latent numbers with {shown(flow)}", remedy):
        transforms: list[Any] = [layer := AffineLayer(size, full)]
        if size >= flow.least_features:
            warn_if_slow(flow, size, "as a guide")
            transforms.append(flow.transform(size))
        built = Flow(LazyComposedTransform(*transforms), standard_normal(size))
    built.to(loc)
    if alone:
        layer.restart(loc, torch.full_like(loc, init_scale))
    else:
        layer.restart(loc, torch.ones_like(loc))
        nn.init.constant_(layer.log_scale, math.log(init_scale))
    return built
