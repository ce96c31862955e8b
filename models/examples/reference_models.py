"""The Pyro models of the reference posteriors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.data.files.posteriordb import Reference
from flowvae.models.examples.eight_schools import EightSchools
from flowvae.models.examples.garch import Garch11
from flowvae.models.examples.ordered_mixture import OrderedMixture
from flowvae.models.examples.regression import LinearRegression

__all__ = ["REFERENCE_MODELS", "reference_model"]


def _interaction(data: dict[str, Any]) -> LinearRegression:
    high_school, iq = (torch.tensor(data[name], dtype=torch.float64) for name in ("mom_hs", "mom_iq"))
    x = torch.stack((torch.ones_like(iq), high_school, iq, high_school * iq), -1)
    x = x.to(torch.get_default_dtype())
    return LinearRegression(x, data["kid_score"], beta_scale=None, noise="half-cauchy", noise_scale=2.5)


REFERENCE_MODELS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "eight_schools-eight_schools_noncentered": lambda data: EightSchools(data["y"], data["sigma"], centred=False),
    "sblrc-blr": lambda data: LinearRegression(data["X"], data["y"]),
    "low_dim_gauss_mix-low_dim_gauss_mix": lambda data: OrderedMixture(data["y"]),
    "garch-garch11": lambda data: Garch11(data["y"], data["sigma1"]),
    "kidiq-kidscore_interaction": _interaction,
}


def reference_model(reference: Reference, centred: bool = False) -> nn.Module:
    """Build the Pyro model of a reference, with its data, in torch's default dtype.

    Its sites (sampled or deterministic) have the names of `reference.draws` and the shapes of single draws.

    Args:
        reference: from `load_reference`.
        centred: for eight schools only: the centred form, whose posterior over mu, tau and theta is the same.

    Raises:
        FlowvaeError: for a reference without a model, or the centred form of a model other than eight schools.
    """
    if reference.name not in REFERENCE_MODELS:
        raise FlowvaeError(
            f"reference {shown(reference.name)} has no model; {nearest(reference.name, REFERENCE_MODELS)}"
        )
    model = REFERENCE_MODELS[reference.name](reference.data)
    if centred:
        if not isinstance(model, EightSchools):
            raise FlowvaeError(f"centred = True for {reference.name}: only eight schools has a centred form.")
        return EightSchools(model.effect, model.error, centred=True)
    return model
