"""Log-weights log p(x, z) − log q(z | x) of the traces of a model and its guide, one for each plate index.

There is one weight for each index of the plates that contain all sites. Handlers may scale the sites: the scale of the
observed sites is a weight of the plate index, and the scale of a latent site, relative to it, is a weight of the site's
term, as in a KL warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.inference.compile.recorder import is_recording

__all__ = ["PARTICLES", "LogWeights", "differ", "log_weights", "plates_of", "refuse_unreparametrized", "sample_sites"]

PARTICLES = "num_particles_vectorized"  # Pyro's plate of the draws

Scale = float | Tensor


@dataclass(frozen=True)
class LogWeights:
    """Log-densities of K draws in nats.

    Args:
        joint: log p(x, z), shape (K, *plates).
        guide: log q(z | x), shape (K, *plates).
        scale: weight of each plate index, broadcasting to *plates.
    """

    joint: Tensor
    guide: Tensor
    scale: Scale

    @property
    def values(self) -> Tensor:
        """Log-weights, shape (K, *plates)."""
        return self.joint - self.guide


def log_weights(
    pairs: Iterable[tuple[Any, Any]], particles: int, vectorized: bool, unweighted: bool = False
) -> LogWeights:
    """Compute log-weights from pairs of traces of model and guide, with their log-densities.

    Args:
        pairs: one pair for each draw, or one with all of them in a plate.
        particles: K.
        vectorized: whether the draws are in a plate.
        unweighted: whether latent sites must have the scale of the observed ones.

    Raises:
        FlowvaeError: for a plate that is subsampled and does not contain all sites, or scales that are not weights of
            plate indices and of latent sites.
    """
    joints, guides = [], []
    scale: Scale = 1.0
    for model_trace, guide_trace in pairs:
        model, guide = sample_sites(model_trace), sample_sites(guide_trace)
        kept = _common([*model.values(), *guide.values()])
        scale = _base(model, guide)
        _check(model, guide, scale, kept, unweighted)
        joints.append(_total(model, scale, kept))
        guides.append(_total(guide, scale, kept))
    if vectorized and particles > 1:
        return LogWeights(joints[0], guides[0], scale)
    return LogWeights(torch.stack(joints), torch.stack(guides), scale)


def sample_sites(trace: Any) -> dict[str, Any]:
    """Select the sample sites of a trace, without those of subsampling."""
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def plates_of(site: Any) -> list[Any]:
    """List the vectorized plates of a site, without that of the draws."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES]


def refuse_unreparametrized(sites: dict[str, Any], remedy: str) -> None:
    """Raise an error for a latent site of a guide without reparametrized draws.

    Raises:
        FlowvaeError: if there is one.
    """
    for name, site in sites.items():
        if not is_identically_zero(site["score_parts"].score_function):
            raise FlowvaeError(f"site {name!r} of the guide is not reparametrized; use {remedy}.")


def differ(one: Scale, other: Scale) -> bool:
    """Whether two scales differ.

    While a program is recorded, changing numbers are tensors without a value; the run before has checked them.
    """
    if one is other or is_recording():
        return False
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return not bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    return one != other


def _common(sites: list[Any]) -> set[int]:
    """Dimensions of the draws and of the plates that contain all sites."""
    common = set(plates_of(sites[0])) if sites else set()
    for site in sites:
        common &= set(plates_of(site))
    for site in sites:
        for frame in plates_of(site):
            if frame.full_size not in (None, frame.size) and frame not in common:
                raise FlowvaeError(
                    f"plate {frame.name!r} is subsampled, {frame.size} of {frame.full_size}, and not all sites are in "
                    "it, so sums over part of the data are not log-weights; use Trace_ELBO."
                )
    draws = {frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.name == PARTICLES}
    return {frame.dim for frame in common} | draws


def _base(model: dict[str, Any], guide: dict[str, Any]) -> Scale:
    """The scale of the observed sites, or of all if none is observed."""
    sites = [site for site in model.values() if site["is_observed"]] or list(model.values()) or list(guide.values())
    return sites[0]["scale"] if sites else 1.0


def _check(model: dict[str, Any], guide: dict[str, Any], base: Scale, kept: set[int], unweighted: bool) -> None:
    remedy = "scale all sites alike" + ("" if unweighted else ", or a latent site alike in model and guide")
    for name in {**model, **guide}:
        found = [part[name]["scale"] for part in (model, guide) if name in part]
        if len(found) == 2 and differ(*found):
            raise FlowvaeError(
                f"poutine.scale: {found[0]} at site {name!r} of the model, {found[1]} of the guide; {remedy}."
            )
        if (len(found) == 1 or unweighted) and differ(found[0], base):
            raise FlowvaeError(f"poutine.scale: {found[0]} at site {name!r}, {base} at another; {remedy}.")
    if isinstance(base, Tensor) and any(base.shape[d] > 1 and d not in kept for d in range(-base.dim(), 0)):
        raise FlowvaeError(
            f"poutine.scale: a tensor of shape {tuple(base.shape)}, with an axis that is not a plate of all sites."
        )


def _total(sites: dict[str, Any], base: Scale, kept: set[int]) -> Tensor:
    """Sum of the log-densities over all sites and other dimensions, without the scale `base`."""
    total: Any = 0.0
    for site in sites.values():
        scale = site["scale"]
        same = scale is base or (not isinstance(scale, Tensor) and not isinstance(base, Tensor) and scale == base)
        term = scale_and_mask(site["unscaled_log_prob"], 1.0 if same else scale / base, site["mask"])
        for d in range(-term.dim(), 0):
            if d not in kept:
                term = term.sum(d, keepdim=True)
        while term.dim() and -term.dim() not in kept:  # leading axes of size 1
            term = term.squeeze(0)
        total = total + term
    return torch.as_tensor(total)
