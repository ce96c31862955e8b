"""Maps from unconstrained values to latent variables, each on its support in the current run of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.guides.automatic.supports import bijection, same_kind, support_of

__all__ = ["Constrain", "Part", "constrain", "run_until"]


class Part(NamedTuple):
    """The value of one site, and log |d value / d unconstrained value|, of the site's batch shape."""

    value: Tensor
    log_det: Tensor


def constrain(free: Tensor, transform: Transform, event_dim: int) -> Part:
    """Map the unconstrained value of a site with `event_dim` event dimensions onto its support."""
    value = transform(free)
    log_det = transform.log_abs_det_jacobian(free, value)
    return Part(value, sum_rightmost(log_det, log_det.dim() - value.dim() + event_dim))


class Constrain(Messenger):
    """Messenger that sets latent sites to values on their supports in the current run of the model.

    A support may depend on earlier latent variables, as in `b ~ Uniform(0, a)`. Their values are set here too, so the
    support is that of the current draw.

    Args:
        free: unconstrained values by site; draws to the left of all plates.
        prototype: the sites as they were when the guide was set up.
        last: the site after which the run stops; None: the whole model runs.
        points: by plate, indices of the points that the run takes, for plates that may subsample.
    """

    def __init__(
        self,
        free: Mapping[str, Tensor],
        prototype: Mapping[str, Any],
        last: str | None = None,
        points: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.free, self.prototype, self.last, self.points = free, prototype, last, points or {}
        self.parts: dict[str, Part] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name in self.points and site_is_subsample(msg):
            msg["value"] = self.points[name]
        if name not in self.free or msg["is_observed"]:
            return
        before = self.prototype[name]["fn"]
        if fn.event_shape != before.event_shape or not same_kind(support_of(fn), support_of(before)):
            raise FlowvaeError(
                f"site {name!r} has changed between runs of the model, from {_description(before)} to "
                f"{_description(fn)}; only the bounds of a support may change. Sample a variable with a fixed shape "
                "and support, and use pyro.deterministic for what is computed from it."
            )
        self.parts[name] = part = constrain(self.free[name], bijection(name, fn), fn.event_dim)
        msg["value"] = part.value
        if name == self.last:
            raise _Stop


def _description(fn: Any) -> str:
    return f"{type(fn).__name__} of event shape {tuple(fn.event_shape)} on {shown(support_of(fn))}"


class _Stop(BaseException):  # not an Exception, which the model's own code might catch
    """Ends a run of the model after the last site."""


def run_until(
    model: Callable[..., Any], messenger: Constrain, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Part]:
    """Run a model, hidden from other handlers, up to the messenger's last site; return the parts by site."""
    try:
        with poutine.block():
            messenger(model)(*args, **kwargs)
    except _Stop:
        pass
    return messenger.parts
