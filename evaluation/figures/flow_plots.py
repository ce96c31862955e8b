"""Figures of flows as models of data: samples, interpolation, density, and the way from base to data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from zuko.transforms import ComposedTransform

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.evaluation.figures.drawing import BLUE, on_grid
from flowvae.evaluation.figures.images import image_shape, show_images
from flowvae.evaluation.latent.interpolation import different_pairs
from flowvae.models import FlowModel
from flowvae.networks import check_rows, in_eval_mode

__all__ = ["interpolate", "plot_density", "plot_flow_samples", "plot_interpolation", "plot_steps"]

IMAGES = 64  # in a grid, 8 a row
POINTS = 2000  # in a cloud
PANELS = 6  # in a row at most
NODES = 201  # of a density, a side


@torch.no_grad()
@in_eval_mode
def interpolate(model: FlowModel, start: Tensor, end: Tensor, steps: int = 9) -> Tensor:
    """Data between two data, shape (steps, N, D): both are encoded, the way between their base points is decoded.

    The way is the arc u(t) = cos(πt/2) u_0 + sin(πt/2) u_1, which keeps the distribution N(0, I) of two independent
    base points all along; a straight line passes nearer to 0 than nearly every draw does.

    Args:
        model: the flow.
        start: data, shape (N, D).
        end: as many others.
        steps: points on the way, with both ends; two or more.

    Raises:
        FlowvaeError: for fewer than two steps, or data of another shape or type.
    """
    check_int_value("steps", steps, least=2)  # both ends belong to the way
    for name, x in (("start", start), ("end", end)):
        check_rows(name, x, model.features, model)
    angle = torch.linspace(0, math.pi / 2, steps, device=start.device)[:, None, None]
    first, last = model.encode(start), model.encode(end)
    return model.decode(angle.cos() * first + angle.sin() * last)


def plot_flow_samples(
    model: FlowModel, data: Dataset, temperatures: Sequence[float] = (0.7, 1.0), seed: int = 0
) -> Figure:
    """Test images beside what the flow generates, at one or several temperatures.

    Raises:
        FlowvaeError: for data that are no images.
    """
    figure = Figure(figsize=(3.6 * (len(temperatures) + 1), 3.9), layout="constrained")
    axes = figure.subplots(1, len(temperatures) + 1)
    show_images(axes[0], data.test[:IMAGES], data, f"{data.name}: test images")
    for ax, temperature in zip(axes[1:], temperatures, strict=True):
        with seeded(derive(seed, "samples")):
            drawn = model.generate(IMAGES, temperature)
        show_images(ax, drawn, data, f"generated, temperature {temperature:g}")
    return figure


def plot_interpolation(model: FlowModel, data: Dataset, pairs: int = 6, steps: int = 9, seed: int = 0) -> Figure:
    """From one test image to another: through the base of the flow, and by mixing pixels.

    Pairs are drawn at random, of different labels where there are labels.

    Raises:
        FlowvaeError: for data that are no images.
    """
    image_shape(data)
    start, end = different_pairs(data, pairs, seed)
    share = torch.linspace(0, 1, steps)[:, None, None]
    ways = interpolate(model, start, end, steps), (1 - share) * start + share * end
    figure = Figure(figsize=(9.6, 0.5 * pairs + 0.6), layout="constrained")
    titles = "through the base: T(u(t))", "pixels: (1 − t) x₀ + t x₁"
    for ax, way, title in zip(figure.subplots(1, 2), ways, titles, strict=True):
        show_images(ax, way.transpose(0, 1).flatten(0, 1), data, title, row=steps)
    return figure


@torch.no_grad()
@in_eval_mode
def plot_density(model: FlowModel, data: Dataset, title: str = "density of the flow") -> Figure:
    """Data in the plane beside the density that the flow gives them, and the true one where it is known.

    Raises:
        FlowvaeError: for data that are not in the plane.
    """
    _plane(data)
    low, high = data.test.amin(0), data.test.amax(0)
    margin = 0.12 * (high - low)
    low, high = low - margin, high + margin
    x, y = (torch.linspace(a, b, NODES) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    pictures = [(title, np.exp(on_grid(model.flow().log_prob, x, y)))]
    if data.log_evidence is not None:
        pictures.append(("true density", np.exp(on_grid(data.log_evidence, x, y))))
    figure = Figure(figsize=(3.6 * (len(pictures) + 1), 3.0), layout="constrained")
    axes = figure.subplots(1, len(pictures) + 1, sharex=True, sharey=True)
    extent = (x[0].item(), x[-1].item(), y[0].item(), y[-1].item())
    top = max(float(density.max()) for _, density in pictures)
    for ax, (name, density) in zip(axes[1:], pictures, strict=True):
        shown = ax.imshow(density, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=top, aspect="equal")
        ax.set_title(name, fontsize=10)
        ax.tick_params(labelsize=7)
    figure.colorbar(shown, ax=axes[1:], label="density", shrink=0.8)
    _cloud(axes[0], data.test[:POINTS], f"{data.name}: test data", color=BLUE)
    axes[0].set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    return figure


@torch.no_grad()
@in_eval_mode
def plot_steps(model: FlowModel, data: Dataset, seed: int = 0) -> Figure:
    """A cloud of points on its way: base, after each transform in the *generative* direction, and the data.

    A point keeps its colour, which is its direction from the origin of the base. The base is one piece, and a
    continuous map cannot tear it: between two moons there stays a thin bridge.

    Raises:
        FlowvaeError: for data that are not in the plane.
    """
    _plane(data)
    flow = model.flow()
    with seeded(derive(seed, "steps")):
        u = flow.base.sample((POINTS,))
    transform = flow.transform
    steps = transform.transforms if isinstance(transform, ComposedTransform) else (transform,)
    clouds = [("base N(0, I)", u)]
    for number, step in enumerate(reversed(steps), start=1):
        clouds.append((f"after transform {number}", step.inv(clouds[-1][1])))
    colour = torch.atan2(u[:, 1], u[:, 0]).numpy(force=True)
    rows = math.ceil((len(clouds) + 1) / PANELS)
    columns = math.ceil((len(clouds) + 1) / rows)
    figure = Figure(figsize=(2.3 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (title, points) in zip(axes, clouds, strict=False):
        _cloud(ax, points, title, c=colour, cmap="hsv")
    _cloud(axes[len(clouds)], data.test[:POINTS], f"{data.name}: test data", color="#555555")
    for ax in axes[: len(clouds) + 1]:
        ax.set_aspect("equal", adjustable="datalim")
    for ax in axes[len(clouds) + 1 :]:
        ax.axis("off")
    return figure


def _cloud(ax: Axes, points: Tensor, title: str, **style: Any) -> None:
    x, y = points.cpu().T.numpy(force=True)
    ax.scatter(x, y, s=3, alpha=0.7, linewidths=0, **style)
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=7)


def _plane(data: Dataset) -> None:
    if data.features != 2:
        raise FlowvaeError(f"{data.name}: {data.features} columns; this figure needs a plane, such as Moons().")
