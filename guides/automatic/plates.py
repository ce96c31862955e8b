"""Plates of a model in the current run: their sizes and the points taken from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError

__all__ = ["Points", "check_encoded", "read_points"]


class Points(NamedTuple):
    """The points that a run takes from a plate of `size` points; indices of shape (n,)."""

    size: int
    indices: Tensor


def check_encoded(
    encoded: Collection[str],
    with_latents: Collection[str],
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Check that each plate with an encoder is in the model and has latent sites.

    Raises:
        FlowvaeError: if it is not; the message lists the model's plates.
    """
    for plate in encoded:
        if plate in with_latents:
            continue
        with poutine.block(), torch.no_grad():
            nodes = poutine.trace(model).get_trace(*args, **kwargs).nodes.values()
        known = dict.fromkeys(frame.name for node in nodes for frame in node.get("cond_indep_stack", ()))
        if plate in known:
            raise FlowvaeError(
                f"AutoFlow.encoder[{plate!r}]: the plate {plate!r} has no latent variables inside, so there is nothing "
                "to encode; leave this encoder out."
            )
        raise FlowvaeError(
            f"AutoFlow.encoder[{plate!r}]: the model has no plate {plate!r}; its plates are "
            f"{', '.join(map(repr, known)) or '(none)'}."
        )


def read_points(
    model: Callable[..., Any],
    plates: Collection[str],
    start: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Points]:
    """Run a model until each of some plates had a latent site, and read the points that it takes from the plates.

    A model may choose the points itself, as in `plate(..., subsample=index)`, and their number may change from run to
    run, as in `plate("data", len(x))`. The run is hidden from other handlers.

    Args:
        model: Pyro model.
        plates: names of the plates.
        start: values of other latent sites in this run, by site.
        shapes: event shape of each latent site inside the plates.
        args: the model's arguments.
        kwargs: its keyword arguments.

    Raises:
        FlowvaeError: for a plate that is not created in the run or has no latent site in it, or a site whose event
            shape has changed.
    """
    reader = _ReadPoints(plates, start, shapes)
    try:
        with poutine.block(), torch.no_grad():
            reader(model)(*args, **kwargs)
    except _Stop:
        pass
    for plate in plates:
        if plate not in reader.reached:
            raise FlowvaeError(
                f"plate {plate!r}: without latent variables in this run of the model; a guide needs the same sites in "
                "every run."
            )
        if plate not in reader.found:
            raise FlowvaeError(
                f"plate {plate!r}: not created in this run of the model, so its points are unknown; write pyro.plate "
                "in the model's function."
            )
    return reader.found


class _ReadPoints(Messenger):
    """Messenger that reads the points of plates, and stops the run when each of them had a latent site."""

    def __init__(self, plates: Collection[str], start: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> None:
        super().__init__()
        self.plates, self.start, self.shapes = plates, start, shapes
        self.found: dict[str, Points] = {}
        self.reached: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if name in self.start:
            msg["value"] = self.start[name]
        elif name in self.shapes:
            if msg["fn"].event_shape != self.shapes[name]:
                raise FlowvaeError(
                    f"site {name!r}: event shape {tuple(msg['fn'].event_shape)}, and {tuple(self.shapes[name])} when "
                    "the guide was set up; a guide needs the same numbers for each point in every run."
                )
            self.reached.update(frame.name for frame in msg["cond_indep_stack"])
            if self.reached.issuperset(self.plates):
                raise _Stop

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] in self.plates:
            self.found[msg["name"]] = Points(msg["fn"].size, torch.as_tensor(msg["value"]))


class _Stop(BaseException):  # not an Exception, which the model's own code might catch
    """Ends a run of the model."""
