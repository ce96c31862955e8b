"""Log-densities of a Pyro model and its guide over all of their sites, one per data point and draw.

Sites are found in traces: latent sites are all sample sites that are not observed. A program is scored with one row per
pair of data point and draw, so that no layer can treat draws as data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from flowvae.core.errors import FlowvaeError, IntractableError
from flowvae.data.batch import Batch

__all__ = [
    "Draws",
    "LogDensities",
    "draw_latents",
    "is_scaled",
    "latent_nodes",
    "log_densities",
    "log_joint",
    "only_site",
    "refuse_scaled",
    "repeated",
    "sample_latents",
    "score_rows",
    "trace_sites",
]


class LogDensities(NamedTuple):
    """Log-densities in nats of S draws for each of N data points, shape (S, N)."""

    observed: Tensor  # summed over the observed sites; for a model the log-likelihood
    latent: Tensor  # summed over the latent sites; for a model the log-prior


@dataclass(frozen=True)
class Draws:
    """S draws of a guide for each of B data points, with their log-densities in nats, shape (S, B).

    Args:
        latents: value of each latent site of the model, shape (S, B, *event shape).
        log_likelihood: log p(x | z), summed over the observed sites.
        log_prior: log p(z), summed over the latent sites.
        log_guide: log q(z | x), summed over the guide's sites.
    """

    latents: Mapping[str, Tensor]
    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) − log q(z | x), shape (S, B)."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def code(self) -> Tensor:
        """Values of the only latent site, shape (S, B, *event shape).

        Raises:
            FlowvaeError: for a model with several latent sites, or none.
        """
        return self.latents[only_site(self.latents, "this measure")]


def only_site(latents: Mapping[str, Any], wanted_by: str) -> str:
    """Return the name of the only latent site.

    Raises:
        IntractableError: if there are several, or none.
    """
    if len(latents) != 1:
        raise IntractableError(
            f"latent sites {', '.join(latents) or '(none)'}: {wanted_by} needs exactly one, the code. The ELBO, the "
            "NLL, IWAE and AIS allow any number."
        )
    return next(iter(latents))


def draw_latents(guide: Callable[..., Any], batch: Batch, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draw from a guide under an outer plate, so that its networks run once per data point.

    Args:
        guide: Pyro guide whose sites are all in one plate of the data.
        batch: N data points.
        draws: S, draws per data point.

    Returns:
        Values of each latent site, shape (S, N, *event shape), without auxiliary sites, and log q(z | x), (S, N).

    Raises:
        FlowvaeError: for a site whose log-density is not one number per draw and data point, a guide without a density,
            or sites under `poutine.scale`.
    """
    shape = (draws, len(batch))
    trace = _trace(pyro.plate("_draws", draws, dim=-2)(guide), batch)
    found = _scored(trace, shape, shape, batch)
    nodes = latent_nodes(trace)
    auxiliary = any(node["infer"].get("is_auxiliary") for node in nodes.values())
    latents = {}
    for name, node in nodes.items():
        if not auxiliary and _is_point(node["fn"]):
            raise FlowvaeError(
                f"site {name!r} of the guide is a point estimate without a density; use a guide that has one."
            )
        if not node["infer"].get("is_auxiliary"):
            latents[name] = node["value"].expand(*shape, *node["fn"].event_shape)
    return latents, (found.observed + found.latent).expand(shape)


def log_densities(
    program: Callable[..., Any], batch: Tensor | Batch, values: Tensor | Mapping[str, Tensor]
) -> LogDensities:
    """Compute log-densities of a model or guide at given values of its latent sites, with gradients to all of them.

    It may be called inside a guide; handlers of the guide do not see these sites.

    Args:
        program: Pyro program whose sites are all in one plate of the data.
        batch: N data points.
        values: values of each latent site, shape (S, N, *event shape); a tensor for a program of one latent site.

    Raises:
        FlowvaeError: for a site whose log-density is not one number per data point, a latent site without values,
            values without a site or of another shape, or sites under `poutine.scale`.
    """
    batch = Batch.of(batch)
    given = [values] if isinstance(values, Tensor) else list(values.values())
    draws = len(given[0]) if given else 1
    for value in given:
        if value.shape[:2] != (draws, len(batch)):
            raise FlowvaeError(
                f"values of shape {tuple(value.shape)} for {len(batch)} data points; must be (draws, data points, "
                "*event shape), with the same number of draws at every site."
            )
    if isinstance(values, Tensor):
        rows: Tensor | dict[str, Tensor] = values.flatten(0, 1)
    else:
        rows = {name: value.flatten(0, 1) for name, value in values.items()}
    return score_rows(program, repeated(batch, draws), rows, (draws, len(batch)))


def score_rows(
    program: Callable[..., Any], rows: Batch, values: Tensor | Mapping[str, Tensor], shape: tuple[int, int]
) -> LogDensities:
    """Compute log-densities of values that are given as rows, as `log_densities` does.

    Args:
        program: Pyro program whose sites are all in one plate of the data.
        rows: N data points, `repeated` S times.
        values: values of each latent site, shape (S · N, *event shape).
        shape: (S, N).
    """
    return _scored(trace_sites(program, rows, values), shape, (len(rows),), rows)


def log_joint(model: Callable[..., Any], x: Tensor | Batch, z: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Compute log p(x, z) in nats of S codes for each of N data points, shape (S, N), with gradients to all codes.

    Args:
        model: Pyro model whose sites are all in one plate of the data.
        x: data, shape (N, *event shape), or a batch with a condition.
        z: codes of the only latent site, shape (S, N, *event shape), or the values of every latent site by name.

    Raises:
        FlowvaeError: see `log_densities`.
    """
    found = log_densities(model, x, z)
    return found.observed + found.latent


def sample_latents(program: Callable[..., Any], batch: Batch, draws: int) -> dict[str, Tensor]:
    """Draw values of all latent sites of a program, each of shape (S, N, *event shape)."""
    nodes = latent_nodes(_trace(program, repeated(batch, draws)))
    return {name: node["value"].unflatten(0, (draws, len(batch))) for name, node in nodes.items()}


def repeated(batch: Batch, draws: int) -> Batch:
    """Repeat the whole batch S times, to S · N data points."""
    if draws == 1:
        return batch
    return Batch(*(part.expand(draws, *part.shape).flatten(0, 1) for part in batch.args))


def trace_sites(program: Callable[..., Any], batch: Batch, values: Tensor | Mapping[str, Tensor]) -> Any:
    """Trace a program with given values (N, *event shape) at its latent sites.

    Raises:
        FlowvaeError: for a latent site without values, or values without a site or of another shape.
    """
    given = _Given(values)
    trace = _trace(given(program), batch)
    unused = [name for name in given.values if name not in trace.nodes]
    if unused:
        raise FlowvaeError(
            f"no latent site {unused[0]!r}: there are {', '.join(latent_nodes(trace)) or 'none'}. Model and guide need "
            "the same latent sites."
        )
    return trace


def latent_nodes(trace: Any) -> dict[str, Any]:
    """Select the latent sites of a trace."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
    }


def is_scaled(node: Mapping[str, Any]) -> bool:
    """Whether a handler such as `poutine.scale` has changed a traced site's log-density."""
    scale = node["scale"]
    return bool((scale != 1).any()) if isinstance(scale, Tensor) else scale != 1


def refuse_scaled(names: list[str]) -> None:
    """Raise if `poutine.scale` has changed the log-density of a site.

    Raises:
        FlowvaeError: if there are any.
    """
    if names:
        raise FlowvaeError(
            f"poutine.scale changes the log-density of {', '.join(names)}: weights, evidence and cross-validation "
            "need the original one. Use the model and the guide without poutine.scale."
        )


class _Given(Messenger):
    """Set the value of every latent site; a single tensor is for the only latent site."""

    def __init__(self, values: Tensor | Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensor = values if isinstance(values, Tensor) else None
        self.values = {} if isinstance(values, Tensor) else dict(values)

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if self.tensor is not None and name not in self.values:
            if self.values:
                raise FlowvaeError(
                    f"latent sites {', '.join((*self.values, name))}: one tensor of values is for one site; give the "
                    "values of each by name."
                )
            self.values[name] = self.tensor
        if name not in self.values:
            raise FlowvaeError(
                f"no values for the latent site {name!r}, only for {', '.join(self.values) or 'none'}. Model and guide "
                "need the same latent sites."
            )
        value, fn = self.values[name], msg["fn"]
        if value.shape != fn.batch_shape + fn.event_shape:  # broadcasting would change the density
            raise FlowvaeError(
                f"site {name!r}: values of shape {tuple(value.shape)}, one row per data point, but its distribution "
                f"has shape {tuple(fn.batch_shape + fn.event_shape)}; draw it in the plate of the data, with the same "
                "event shape in model and guide."
            )
        msg["value"], msg["done"] = value, True


def _trace(program: Callable[..., Any], batch: Batch) -> Any:
    with poutine.block(), pyro.validation_enabled(False):
        try:
            return poutine.trace(program).get_trace(*batch.args)
        except ValueError as error:
            if "collide at dim" not in str(error):  # Pyro's message for plates
                raise
            raise FlowvaeError(
                "a plate inside of the plate of the data leaves no dimension for the draws; write its sites as one "
                "site with an event dimension (to_event)."
            ) from None


def _scored(trace: Any, shape: tuple[int, int], wanted: tuple[int, ...], batch: Batch) -> LogDensities:
    """The log-densities of a trace, shape (S, N); each of its sites must have the batch shape `wanted`."""

    def counts(name: str, node: Any) -> bool:
        return not site_is_subsample(node) and not node["infer"].get("_deterministic")

    sites = {name: node for name, node in trace.nodes.items() if node["type"] == "sample" and counts(name, node)}
    for node in sites.values():
        if node["value"] is batch.args[0] and wanted == (shape[0] * shape[1],) and _uses_repetition(node):
            node["log_prob"] = node["unscaled_log_prob"] = node["fn"].log_prob_repeated(node["value"], shape[1])
    trace.compute_log_prob(counts)
    refuse_scaled([name for name, node in sites.items() if is_scaled(node)])
    totals: dict[bool, Tensor] = {}
    for name, node in sites.items():
        log_prob = node["log_prob"]
        for found in (log_prob.shape, node["fn"].batch_shape):
            if found != wanted:
                raise FlowvaeError(
                    f"site {name!r}: batch shape {tuple(found)} for {shape[0]} draws of {shape[1]} data points; must "
                    f"be {wanted}, one log-density for each. Put the site into the plate of the data, and all other "
                    "dimensions into its event (to_event)."
                )
        observed = node["is_observed"]
        totals[observed] = totals[observed] + log_prob if observed in totals else log_prob
    like = next(iter(totals.values())) if totals else batch.args[0].new_zeros(wanted)
    return LogDensities(*(totals.get(observed, torch.zeros_like(like)).reshape(shape) for observed in (True, False)))


def _uses_repetition(node: Any) -> bool:
    """Whether the distribution of an observed site scores the same data under many draws at a lower cost."""
    return node["is_observed"] and node["mask"] is None and hasattr(node["fn"], "log_prob_repeated")


def _is_point(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)
