"""Latent sites of a model as unconstrained numbers: their shapes, their plates, and the maps onto their supports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Transform

from flowvae.core.errors import FlowvaeError
from flowvae.guides.automatic.constrained import Constrain, Part, constrain, run_until
from flowvae.guides.automatic.supports import bijection, is_fixed, support_of

__all__ = ["Layout"]


class Layout:
    """The latent sites of a model, in the order of a run.

    Args:
        sites: nodes of a trace of the model, by site.
        encoded: names of the plates whose sites are drawn given an encoder.

    Attributes:
        initial: initial unconstrained values by site.
        frames: the plates of each site, as in its `cond_indep_stack`.
        inside: the encoded plate of each site inside one.
        last: the last site whose support is not fixed, as in `b ~ Uniform(0, a)`; None: all are fixed.

    Raises:
        FlowvaeError: for a site without a bijection from the reals, or in an encoded plate and other plates.
    """

    def __init__(self, sites: Mapping[str, Any], encoded: Collection[str] = ()) -> None:
        self.sites = sites
        self.initial: dict[str, Tensor] = {}
        self.frames: dict[str, Any] = {}
        self.inside: dict[str, str] = {}
        self.last: str | None = None
        self._fixed: dict[str, Transform] = {}  # transforms onto fixed supports
        for name, site in sites.items():
            transform = bijection(name, site["fn"])
            self.initial[name] = transform.inv(site["value"])
            self.frames[name] = site["cond_indep_stack"]
            if is_fixed(support_of(site["fn"])):
                self._fixed[name] = transform
            else:
                self.last = name
            for frame in self.frames[name]:
                if frame.name in encoded:
                    self.inside[name] = frame.name
                    _check_alone(name, site, self.initial[name], frame)

    @property
    def joint(self) -> list[str]:
        """The sites outside of encoded plates."""
        return [name for name in self.sites if name not in self.inside]

    @property
    def depth(self) -> int:
        """Number of plate dimensions of the sites."""
        return max(len(site["fn"].batch_shape) for site in self.sites.values())

    def within(self, plate: str) -> dict[str, Tensor]:
        """Initial unconstrained values of the sites inside an encoded plate."""
        return {name: self.initial[name] for name, other in self.inside.items() if other == plate}

    def frame(self, plate: str) -> Any:
        """The frame of an encoded plate."""
        return next(self.frames[name][0] for name, other in self.inside.items() if other == plate)

    def shape(self, name: str) -> Size:
        """Shape of a site's values; −1 stands for the number of points of an encoded plate."""
        shape = self.sites[name]["value"].shape
        return Size((-1, *shape[1:])) if name in self.inside else shape

    def event_dim(self, name: str) -> int:
        """Number of event dimensions of a site."""
        return int(self.sites[name]["fn"].event_dim)

    def parts(
        self,
        model: Callable[..., Any],
        free: Mapping[str, Tensor],
        points: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> dict[str, Part]:
        """Map unconstrained values onto the supports in the current run of the model.

        Args:
            model: the model, which is run up to the last site whose support is not fixed.
            free: unconstrained values by site; draws to the left of all plates.
            points: by encoded plate, indices of the points that the run takes.
            args: the model's arguments.
            kwargs: its keyword arguments.
        """
        parts: dict[str, Part] = {}
        if self.last in free:
            parts = run_until(model, Constrain(free, self.sites, self.last, points), args, kwargs)
        for name, value in free.items():
            if name not in parts:
                if name not in self._fixed:
                    raise FlowvaeError(
                        f"site {name!r}: not in this run of the model; a guide needs the same sites in every run."
                    )
                parts[name] = constrain(value, self._fixed[name], self.event_dim(name))
        return {name: parts[name] for name in free}

    def constrain(
        self,
        model: Callable[..., Any],
        unpack: Callable[[Tensor], Iterable[tuple[Any, Tensor]]],
        latent: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Map vectors (S, D) of unconstrained numbers to values by site, shape (S, *site).

        Args:
            model: the model, which may take one draw at a time.
            unpack: function of vectors (..., D) that gives the trace node and the unconstrained value of each site.
            latent: the vectors.
            args: the model's arguments.
            kwargs: its keyword arguments.
        """

        def values(rows: Tensor) -> dict[str, Tensor]:
            # a single draw has no batch dimension, several are to the left of all plates
            spread = rows[0] if len(rows) == 1 else rows.reshape(len(rows), *(1,) * self.depth, rows.shape[-1])
            free = {site["name"]: value for site, value in unpack(spread)}
            parts = self.parts(model, free, {}, args, kwargs)
            return {name: part.value.reshape(len(rows), *self.shape(name)) for name, part in parts.items()}

        if self.last is None:
            return values(latent)
        few = [values(row) for row in latent[:3].split(1)]
        try:
            together = values(latent)
            if all(torch.allclose(together[name][n], one[name][0]) for n, one in enumerate(few) for name in one):
                return together
        except (RuntimeError, ValueError, TypeError):  # the model takes one draw at a time
            pass
        alone = [values(row) for row in latent.split(1)]
        return {name: torch.cat([one[name] for one in alone]) for name in alone[0]}

    def check_supports(self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check that every support is determined by the values of the sites.

        Raises:
            FlowvaeError: for a support that depends on other random numbers.
        """
        if self.last is None:
            return
        points = {plate: torch.arange(self.frame(plate).size) for plate in self.inside.values()}
        first, second = (self.parts(model, self.initial, points, args, kwargs) for _ in range(2))
        for name, part in first.items():
            if not torch.equal(part.value, second[name].value):
                raise FlowvaeError(
                    f"site {name!r}: its support depends on random numbers that this guide does not draw, such as "
                    "a hidden site. Sample a variable with a fixed support, such as Uniform(0, 1), and use "
                    "pyro.deterministic for what is computed from it."
                )


def _check_alone(name: str, site: Mapping[str, Any], free: Tensor, frame: Any) -> None:
    """Check that a site is in one plate alone, the one with an encoder, and has one batch dimension for it."""
    plate, frames = frame.name, site["cond_indep_stack"]
    if len(frames) > 1:
        others = ", ".join(repr(other.name) for other in frames if other.name != plate)
        raise FlowvaeError(
            f"site {name!r}: in the plates {plate!r} and {others}, but the encoder of {plate!r} draws one vector for "
            "each of its points; put the other dimensions into the event of the site (to_event)."
        )
    if frame.size < 1:
        raise FlowvaeError(f"plate {plate!r}: has no size, so it has no fixed number of points; give the plate a size.")
    batch = Size((frame.size, *(1,) * (-frame.dim - 1)))
    if site["fn"].batch_shape != batch:
        raise FlowvaeError(
            f"site {name!r}: batch shape {tuple(site['fn'].batch_shape)} in the plate {plate!r} alone; must be "
            f"{tuple(batch)}: put the other dimensions into its event (to_event)."
        )
