"""The sites of a Pyro program: shapes, plates, and log-densities of many draws at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_sample, init_to_uniform, init_to_value
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to, constraints

from flowvae.core.errors import FlowvaeError
from flowvae.guides.automatic.masks import counted, counted_data
from flowvae.guides.automatic.supports import is_circular, support_of
from flowvae.inference.log_density import is_scaled, refuse_scaled

__all__ = [
    "Program",
    "Site",
    "SiteRun",
    "element",
    "read_model",
    "read_program",
    "simulator",
    "unmasked",
    "wrapped",
]

TRIAL = 3  # draws for which a run under an outer plate is compared with single runs
ROUNDING = 1e3  # tolerance, in units of the rounding error of the dtype


@dataclass(frozen=True)
class Site:
    """A sample site, as recorded without an outer plate.

    Args:
        name: the site's name.
        kind: "latent", "delta" (computed by an automatic guide), "deterministic", "observed" or "factor".
        shape: shape of its value.
        batch: shape of its log-density.
        dims: a name for every dimension of the value; plate dimensions have the plate's name.
        value: its value when the program was read.
        scaled: whether `poutine.scale` changes its log-density.
        validated: whether its distribution validates values, so that one outside the support is an error.
        free: number of unconstrained dimensions of its value; None if its support is not continuous.
        circular: whether its values are angles, with a periodic density.
        turn: lower end of its range, if the range is one turn of 2π, as for Uniform(0, 2π).
    """

    name: str
    kind: str
    shape: torch.Size
    batch: torch.Size
    dims: tuple[str, ...]
    value: Tensor
    scaled: bool
    validated: bool
    free: int | None
    circular: bool
    turn: Tensor | None


@dataclass(frozen=True)
class SiteRun:
    """Log-densities and values of a program for S draws.

    Args:
        total: sum of all log-densities in nats, shape (S,).
        pointwise: log-likelihood of every observed site in nats, (S, *batch).
        counted: for every observed site, whether a data point is not masked, (S, *batch).
        values: values of all other sites, (S, *shape).
    """

    total: Tensor
    pointwise: dict[str, Tensor]
    counted: dict[str, Tensor]
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Program:
    """A Pyro model or guide with its arguments.

    Args:
        function: the Pyro program.
        args: its positional arguments.
        kwargs: its keyword arguments.
        sites: its sample sites by name.
        nesting: number of plate dimensions.
        together: whether many draws can be scored in one run under an outer plate.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sites: Mapping[str, Site]
    nesting: int
    together: bool = False

    def refuse_scaled(self) -> None:
        """Check that no log-density is changed by `poutine.scale`.

        Raises:
            FlowvaeError: if one is.
        """
        refuse_scaled([name for name, site in self.sites.items() if site.scaled])

    def of(self, *kinds: str) -> dict[str, Site]:
        """Select the sites of some kinds."""
        return {name: site for name, site in self.sites.items() if site.kind in kinds}

    @torch.no_grad()
    def run(
        self,
        given: Mapping[str, Tensor],
        size: int,
        chunk: int | None = None,
        tick: Callable[[int], Any] = lambda _: None,
    ) -> SiteRun:
        """Run the program for `size` draws, with some sites given, (size, *shape), and the others drawn.

        Args:
            given: site → values.
            size: S.
            chunk: draws in memory at a time; all of them by default.
            tick: called after each part of the work, with its number of draws.
        """
        step = (chunk or size) if self.together else 1
        runs = []
        with pyro.validation_enabled(False):
            for start in range(0, size, step):
                part = {name: value[start : start + step] for name, value in given.items()}
                count = min(step, size - start)
                runs.append(self._at_once(part, count) if self.together else self._alone(part))
                tick(count)
        return SiteRun(
            torch.cat([run.total for run in runs]),
            {name: torch.cat([run.pointwise[name] for run in runs]) for name in runs[0].pointwise},
            {name: torch.cat([run.counted[name] for run in runs]) for name in runs[0].counted},
            {name: torch.cat([run.values[name] for run in runs]) for name in runs[0].values},
        )

    def tried(self, given: Mapping[str, Tensor]) -> Program:
        """Return this program, set to run many draws together if that gives the same results as one by one.

        For example, a model that sums over all dimensions of a value mixes draws under an outer plate.

        Args:
            given: values for some draws; if empty, they are drawn.
        """
        program = replace(self, together=True)
        if not given and getattr(self.function, "independent_draws", False):
            return program  # scoring its draws again may cost a guide a pass for every latent number
        few = {name: value[:TRIAL] for name, value in given.items()}
        try:
            together = program.run(few, TRIAL if not few else len(next(iter(few.values()))))
        except Exception:  # a program may fail under an unexpected plate and still run without it
            return self
        alone = self.run({name: together.values[name] for name in self.of("latent")}, len(together.total))
        pairs = [(alone.total, together.total)]
        pairs += [(alone.values[name], together.values[name]) for name in alone.values]
        pairs += [(alone.pointwise[name], together.pointwise[name]) for name in alone.pointwise]
        return program if all(_same(one, other) for one, other in pairs) else self

    def _alone(self, given: Mapping[str, Tensor]) -> SiteRun:
        nodes = self._nodes(self.function, {name: value[0] for name, value in given.items()})
        return self._read(nodes, given, 1, 0)

    def _at_once(self, given: Mapping[str, Tensor], size: int) -> SiteRun:
        plate = pyro.plate("_draws_of_a_program", size, dim=-1 - self.nesting)
        values = {}
        for name, value in given.items():
            site = self.sites[name]
            values[name] = value.reshape(size, *(1,) * (self.nesting - len(site.batch)), *site.shape)
        return self._read(self._nodes(plate(self.function), values), given, size, self.nesting + 1)

    def _nodes(self, function: Callable[..., Any], values: Mapping[str, Tensor]) -> dict[str, Any]:
        trace = poutine.trace(poutine.condition(function, data=values)).get_trace(*self.args, **self.kwargs)
        trace.compute_log_prob(lambda name, node: name in self.sites and self.sites[name].kind != "deterministic")
        return dict(trace.nodes)

    def _read(self, nodes: Mapping[str, Any], given: Mapping[str, Tensor], size: int, dimensions: int) -> SiteRun:
        total, pointwise, kept, values = torch.zeros(()), {}, {}, {}
        for name, site in self.sites.items():
            node = nodes[name]
            if site.kind == "deterministic":
                full = node["value"]
                own = full if full.numel() == size * site.shape.numel() else full.expand(size, *site.shape)
                values[name] = own.reshape(size, *site.shape)
                continue
            log_prob = node["log_prob"]
            if dimensions and log_prob.dim() != dimensions:
                raise RuntimeError(f"site {name!r} ignores an outer plate")
            if site.kind in ("latent", "delta"):
                full = node["value"].broadcast_to(node["fn"].shape())
                values[name] = full.reshape(size, *site.shape)
                if name in given:  # by another program, possibly on another support
                    log_prob = log_prob.masked_fill(_outside(node["fn"], full), -torch.inf)
            elif site.kind == "observed":
                if site.validated:
                    outside = _outside(node["fn"], node["value"].broadcast_to(node["fn"].shape()), counted(node))
                    log_prob = log_prob.masked_fill(outside, -torch.inf)
                pointwise[name] = log_prob.reshape(size, *site.batch)
                kept[name] = counted_data(node).expand(log_prob.shape).reshape(size, *site.batch)
            total = total + log_prob.reshape(size, log_prob.numel() // size).sum(-1)
        return SiteRun(total.expand(size), pointwise, kept, values)


def element(name: str, index: tuple[int, ...]) -> str:
    """Name of one element of a site's value, such as "theta[2, 0]"; the name of the site for a scalar."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def read_program(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """Run a Pyro program once and record its sites.

    Raises:
        FlowvaeError: for a plate that subsamples or is empty, or a mask of another shape.
    """
    try:
        trace = poutine.trace(function).get_trace(*args, **kwargs)
    except ZeroDivisionError as error:
        if "size cannot be zero" not in str(error):  # Pyro's message for a plate
            raise
        raise FlowvaeError("a plate has size 0; Pyro's plates need 1 data point or more.") from None
    nodes = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
    for name in [name for name, node in nodes.items() if site_is_subsample(node)]:
        node = nodes.pop(name)
        taken, size = len(node["value"]), node["fn"].size
        if taken < size:
            raise FlowvaeError(
                f"plate {name!r} subsamples {taken} of {size} data points, but log-densities need all of them. "
                "Remove subsample_size from the plate."
            )
    for name, node in nodes.items():
        if not node["infer"].get("_deterministic"):
            counted(node)  # raises for a mask of another shape
            _check_shape(name, node)
    sites = {name: _site(name, node, set(nodes)) for name, node in nodes.items()}
    nesting = max((len(site.batch) for site in sites.values()), default=0)
    return Program(function, args, kwargs, sites, nesting)


def read_model(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    values: Mapping[str, Tensor] | None = None,
) -> Program:
    """Run a model once and record its sites; if a prior draw is too extreme for it to run, use other values.

    Args:
        model: Pyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        values: values of latent sites, used in place of a prior draw; None: values near the origin of R^D.

    Raises:
        FlowvaeError: as `read_program`.
    """
    try:
        return read_program(model, args, kwargs)
    except FlowvaeError:
        raise
    except (ValueError, RuntimeError):
        start = init_to_uniform if values is None else init_to_value(values=dict(values), fallback=init_to_sample)
        return replace(read_program(InitMessenger(start)(model), args, kwargs), function=model)


def wrapped(value: Tensor, source: Site, target: Site) -> Tensor:
    """Shift draws of an angle by multiples of 2π into the range of another program; other draws are unchanged."""
    if source.turn is None or target.turn is None or not (source.circular or target.circular):
        return value
    return target.turn + (value - target.turn).remainder(2 * math.pi)


def _check_shape(name: str, node: Mapping[str, Any]) -> None:
    given, own = node["value"].shape, node["fn"].shape()
    if len(given) > len(own) or any(a not in (1, b) for a, b in zip(given[::-1], own[::-1], strict=False)):
        raise FlowvaeError(
            f"site {name!r}: a value of shape {tuple(given)}, but its distribution has shape {tuple(own)}; expand "
            "the distribution or put the site into a plate."
        )


def unmasked(run: SiteRun) -> dict[str, Tensor]:
    """For every observed site, whether a data point is not masked, (*batch).

    Raises:
        FlowvaeError: for a mask that depends on a latent, since the model then has no density of its data.
    """
    for name, value in run.counted.items():
        if (value != value[:1]).any():
            raise FlowvaeError(
                f"site {name!r}: its mask depends on the latents, so the model has no density of the data. Use a mask "
                "that does not depend on latents."
            )
    return {name: value[0] for name, value in run.counted.items()}


def simulator(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return the model without its data: observed sites are drawn.

    Unlike `poutine.uncondition`, it does not change deterministic sites, which would gain a dimension in a plate.
    """
    return _Simulate()(model)


class _Simulate(UnconditionMessenger):
    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic") and not isinstance(_plain(msg["fn"]), dist.Unit):
            super()._pyro_sample(msg)


def _plain(fn: Any) -> Any:
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def _site(name: str, node: Any, names: set[str]) -> Site:
    fn, value = node["fn"], node["value"]
    plain = _plain(fn)
    if node["infer"].get("_deterministic"):
        kind, batch = "deterministic", value.shape[: value.dim() - fn.event_dim]
    elif isinstance(plain, dist.Unit):
        kind, batch = "factor", fn.batch_shape
    elif node["is_observed"]:
        kind, batch = "observed", fn.batch_shape
    else:
        kind, batch = "delta" if isinstance(plain, dist.Delta) else "latent", fn.batch_shape
    shape = value.shape if kind in ("deterministic", "factor") else fn.shape()
    dims = [f"{name}_dim_{number}" for number in range(len(shape))]
    for frame in node["cond_indep_stack"]:
        # all dimensions of a deterministic value belong to its event, also those of plates
        place = len(shape if kind == "deterministic" and fn.event_dim == len(shape) else batch) + (frame.dim or 0)
        if frame.vectorized and 0 <= place < len(shape) and shape[place] == frame.size:
            # these names have another meaning in ArviZ, and a dimension cannot have the name of a variable
            clash = frame.name in {"chain", "draw", "sample", "i", *names}
            dims[place] = f"{frame.name}_dim" if clash else frame.name
    return Site(
        name,
        kind,
        torch.Size(shape),
        torch.Size(batch),
        tuple(dims),
        value.detach(),
        scaled=kind != "deterministic" and is_scaled(node),
        validated=bool(getattr(plain, "_validate_args", False)),
        free=_free(fn) if kind == "latent" else None,
        circular=is_circular(fn),
        turn=_turn(fn) if kind == "latent" else None,
    )


def _turn(fn: Any) -> Tensor | None:
    try:
        support = support_of(fn)
    except NotImplementedError:
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not isinstance(support, constraints.interval):
        return None
    low, high = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
    return low.detach() if ((high - low - 2 * math.pi).abs() < 1e-5).all() else None


def _free(fn: Any) -> int | None:
    try:
        return int(biject_to(fn.support).inverse_shape(fn.shape()).numel())
    except NotImplementedError:
        return None


def _outside(fn: Any, value: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mask of values outside of a distribution's support, where its density is wrong without an error.

    The mask has the distribution's batch shape.

    Args:
        fn: the distribution.
        value: a value of its shape.
        counted: mask of the elements to check; None: all.
    """
    try:
        # data may have another range of angles than draws, such as [0, 2π)
        support = support_of(fn) if counted is None else fn.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        outside = ~support.check(value)
    except (NotImplementedError, ValueError):  # the support is undefined or cannot be checked
        return torch.tensor(False, device=value.device)
    if support.event_dim and outside.any():
        outside = outside & ~_rounded(support, value)
    if counted is not None:
        outside = outside & (counted.flatten(-support.event_dim).any(-1) if support.event_dim else counted)
    batch = len(fn.batch_shape)
    return outside if outside.dim() <= batch else outside.flatten(batch).any(-1)


def _rounded(support: Any, value: Tensor) -> Tensor:
    """Whether a value is outside its support, such as a simplex, only by rounding: the map to R^D and back keeps it."""
    try:
        bijection = biject_to(support)
        back = bijection(bijection.inv(value))
    except (NotImplementedError, RuntimeError):  # there is no such map, or not for values outside
        return torch.tensor(False, device=value.device)
    close = torch.isclose(back, value, rtol=0, atol=ROUNDING * torch.finfo(value.dtype).eps)
    return close.flatten(-support.event_dim).all(-1)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return bool((one == other).all())
    rounding = ROUNDING * torch.finfo(one.dtype).eps
    return torch.allclose(one, other, rtol=rounding, atol=rounding * max(1.0, one.shape.numel() ** 0.5), equal_nan=True)
