"""Batch and match: a Gaussian approximation of a differentiable density, fitted by matching scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor

from flowvae.guides.automatic.constrained import Constrain

__all__ = ["batch_and_match", "match_curvature", "maximize_smoothed", "plate_depth", "unconstrained_log_joint"]

DRAWS = 64  # draws per iteration


def batch_and_match(
    log_density: Callable[[Tensor], Tensor], loc: Tensor, scale_tril: Tensor, iterations: int = 100
) -> tuple[Tensor, Tensor]:
    """Fit N(loc, Σ) to an unnormalized density by matching scores, from given initial values.

    Each iteration draws 64 z_b ~ q, computes the scores g_b = ∇ log p(z_b), and moves q to the closed-form minimum of
    the mismatch between ∇ log q and g on the batch plus a proximity term KL(q_old ‖ q) / λ. There is no step size in
    the units of z, so scales that differ by orders of magnitude and collinear variables do not slow it down. On a
    Gaussian density it is exact after a few iterations. From a start many standard deviations away it is slow, so run
    `maximize_smoothed` first. λ is 64 D in the first half of the iterations and then 64 D over 1, 2, 3, …, so that
    noise averages out.

    An iteration takes about 6 D³ multiplications (two Cholesky factors and two products) and a few D × D matrices.

    Draws at which the density or its score is not finite are left out of their batch.

    Args:
        log_density: log p up to a constant, (S, D) → (S,).
        loc: initial mean, shape (D,).
        scale_tril: initial Cholesky factor, lower triangular, shape (D, D).
        iterations: number of iterations.

    Returns:
        The mean (D,) and the Cholesky factor (D, D) of Σ; float64, which the matrix roots need.

    References:
        Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei & Saul (2024), "Batch and match: black-box variational
        inference with a score-based divergence".
    """
    dtype, size = loc.dtype, len(loc)
    loc, root = loc.double(), scale_tril.double()
    for step in range(iterations):
        noise = torch.randn(DRAWS, size, dtype=torch.float64, device=loc.device)
        z = loc + noise @ root.mT
        density, score = _scores(log_density, z, dtype)
        good = score.isfinite().all(-1) & density.isfinite()
        if good.sum() < 2:
            root = root / 2  # the start covers regions without density: shrink it
            continue
        z, score = z[good], score[good]
        weight = DRAWS * size / max(1, step - iterations // 2)
        share = weight / (1 + weight)
        z_mean, score_mean = z.mean(0), score.mean(0)
        v = root @ root.mT + weight * _covariance(z) + share * torch.outer(loc - z_mean, loc - z_mean)
        # the positive solution of Σ U Σ + Σ = V for U = weight · cov(score) + share · score_mean score_meanᵀ, in units
        # of V's Cholesky factor, where scores are of similar size; with U itself rounding would hide soft directions
        lower = torch.linalg.cholesky(v)
        scaled = score @ lower
        scaled_mean = scaled.mean(0)
        # rows with U = rowsᵀ rows: its rank is that of the batch, and Σ is V in all other directions
        rows = torch.cat([(weight / len(z)) ** 0.5 * (scaled - scaled_mean), share**0.5 * scaled_mean[None]])
        _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
        shrunk = (2 / (1 + (1 + 4 * singular.square()).sqrt())).sqrt()
        factor = lower + (lower @ directions.mT * (shrunk - 1)) @ directions
        updated = factor @ factor.mT
        updated = 0.5 * (updated + updated.mT) + 1e-14 * updated.diagonal().diag_embed()
        updated, info = torch.linalg.cholesky_ex(updated)
        if info != 0:
            continue
        root = updated
        loc = loc / (1 + weight) + share * (root @ (root.mT @ score_mean) + z_mean)
    return loc, root


def match_curvature(
    log_density: Callable[[Tensor], Tensor], loc: Tensor, scale: Tensor, iterations: int = 100
) -> Tensor:
    """Find the scales σ at which N(loc, diag(σ²)) has the largest ELBO, for a fixed loc; linear in D.

    There 1/σ_i² = −E ∂²log p / ∂z_i², and the expectation is that of −ε_i ∂log p / ∂z_i / σ_i, by Stein's identity. Its
    estimates from 64 draws are averaged over the iterations, the later half with equal weights.

    Args:
        log_density: log p up to a constant, (S, D) → (S,).
        loc: mean, shape (D,).
        scale: initial σ, shape (D,).
        iterations: number of iterations.

    Returns:
        σ, shape (D,), float64.

    References:
        Opper & Archambeau (2009), "The variational Gaussian approximation revisited".
    """
    dtype, loc, scale = loc.dtype, loc.double(), scale.double()
    precision = scale.pow(-2)
    for step in range(iterations):
        noise = torch.randn(DRAWS // 2, len(loc), dtype=torch.float64, device=loc.device)
        noise = torch.cat([noise, -noise])  # so that the slope at loc cancels
        density, score = _scores(log_density, loc + noise * scale, dtype)
        good = (score.isfinite().all(-1) & density.isfinite()).view(2, -1).all(0).repeat(2)
        if not good.any():
            scale, precision = scale / 2, precision * 4
            continue
        found = -(noise[good] * score[good]).mean(0) / scale
        rate = max(1 / (step + 1), 2 / iterations)
        precision = (1 - rate) * precision + rate * found
        # where the density is not concave there is no such scale; elsewhere the estimates are noisy: at most a factor 2
        scale = torch.where(precision > 0, precision.clamp_min(0).rsqrt().clamp(scale / 2, scale * 2), scale)
    return scale


def _scores(log_density: Callable[[Tensor], Tensor], z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The log-density at z and its gradient, computed in `dtype`; the gradient in float64."""
    with torch.enable_grad():
        leaf = z.to(dtype).requires_grad_()
        density = log_density(leaf)
        (score,) = torch.autograd.grad(density.sum(), leaf)
    return density, score.double()


def maximize_smoothed(log_density: Callable[[Tensor], Tensor], loc: Tensor, scale: float, draws: int = 32) -> Tensor:
    """Maximize E log p(loc + scale ε) over loc for a fixed set of ε ~ N(0, I), by L-BFGS; returns loc, shape (D,).

    The smoothing avoids the infinite peaks of hierarchical models, at which a search for the mode would fail.
    """
    noise = scale * torch.randn(draws, len(loc), dtype=loc.dtype, device=loc.device)
    best = loc.to(torch.float64, copy=True).requires_grad_()  # steps may overflow float32
    optim = torch.optim.LBFGS([best], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        value = -log_density(best.to(loc.dtype) + noise).mean()
        (best.grad,) = torch.autograd.grad(value, best)  # backward() would leave gradients in the model
        return value

    with torch.enable_grad():
        optim.step(loss)
    found = best.detach().to(loc.dtype)
    return found if found.isfinite().all() else loc


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.mT @ centred / len(x)


def unconstrained_log_joint(
    model: Callable[..., Any],
    guide: AutoContinuous,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    vectorize: bool = True,
) -> Callable[[Tensor], Tensor]:
    """Return log p(x, z) plus the log-Jacobian of the constraints, as a function of the guide's unconstrained vector.

    Args:
        model: the Pyro model of the guide; unless `vectorize` is False it must allow plates around it, as vectorized
            particles do.
        guide: an `AutoContinuous` guide that has run once.
        args: the model's arguments.
        kwargs: its keyword arguments.
        vectorize: whether to run the model once for all rows; else once for each.

    Returns:
        A function (S, D) → (S,), in nats.
    """
    kwargs = kwargs or {}
    prototype = dict(guide.prototype_trace.iter_stochastic_nodes())
    # at the guide's initial values; prior draws may have density zero at later sites
    start = {name: site["value"] for name, site in prototype.items()}
    depth = plate_depth(poutine.condition(model, data=start), *args, **kwargs)

    def log_joint(latent: Tensor) -> Tensor:
        count = len(latent)
        spread = latent.reshape(count, *(1,) * depth, latent.shape[-1])
        constrain = Constrain({site["name"]: free for site, free in guide._unpack_latent(spread)}, prototype)
        particles = pyro.plate("draws", count, dim=-1 - depth)
        trace = poutine.trace(constrain(particles(model))).get_trace(*args, **kwargs)
        trace.compute_log_prob()
        total = latent.new_zeros(count)
        for part in constrain.parts.values():
            total = total + part.log_det.reshape(count, -1).sum(-1)
        for node in trace.nodes.values():
            if node["type"] == "sample" and node["name"] != "draws":
                total = total + node["log_prob"].expand(count, *node["log_prob"].shape[1:]).reshape(count, -1).sum(-1)
        return total

    def one(latent: Tensor) -> Tensor:
        constrain = Constrain({site["name"]: free for site, free in guide._unpack_latent(latent)}, prototype)
        trace = poutine.trace(constrain(model)).get_trace(*args, **kwargs)
        return sum((part.log_det.sum() for part in constrain.parts.values()), torch.as_tensor(trace.log_prob_sum()))

    return log_joint if vectorize else lambda latent: torch.stack([one(row) for row in latent])


def plate_depth(model: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Number of plate dimensions of a model; a plate further to the left vectorizes the whole model."""
    trace = poutine.block(poutine.trace(model).get_trace)(*args, **kwargs)
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    return max((-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized), default=0)
