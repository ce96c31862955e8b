"""Figures of flows as models of data: samples, interpolation, density, and single transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from zuko.transforms import ComposedTransform

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, first, preview
from flowvae.evaluation.figures.drawing import BLUE, new_figure, on_grid
from flowvae.evaluation.figures.images import check_images, value_range
from flowvae.evaluation.figures.panels import Panel, columns_within, draw_panels, rows_within
from flowvae.evaluation.latent.interpolation import different_pairs
from flowvae.models import FlowModel
from flowvae.networks import check_data, in_eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["interpolate", "plot_density", "plot_flow_interpolation", "plot_flow_samples", "plot_steps"]

POINTS = 2000  # points in a cloud
PANELS = 6  # largest number of panels in a row
NODES = 201  # nodes per side of the grid of a density


@torch.no_grad()
@in_eval_mode
def interpolate(model: FlowModel, start: Tensor, end: Tensor, steps: int = 9) -> Tensor:
    """Decode a path between the base points of two data points, shape (steps, N, *shape).

    The path is the arc u(t) = cos(πt/2) u_0 + sin(πt/2) u_1. If u_0 and u_1 are independent draws of N(0, I), u(t) is
    N(0, I) for every t, whereas a straight line passes closer to 0 than almost all draws.

    Args:
        model: the flow.
        start: data, shape (N, *shape).
        end: as many other data points.
        steps: points on the path, including both ends; two or more.

    Raises:
        FlowvaeError: for fewer than two steps, or data of another shape or type.
    """
    check_int_value("steps", steps, least=2)  # including both ends
    for name, x in (("start", start), ("end", end)):
        check_data(name, x, model.shape, model)
    angle = torch.linspace(0, math.pi / 2, steps, device=start.device)[:, None, None]
    u, v = model.encode(start), model.encode(end)
    return model.decode(angle.cos() * u + angle.sin() * v)


def plot_flow_samples(
    model: FlowModel, data: Dataset, temperatures: Sequence[float] = (0.7, 1.0), seed: int = 0
) -> Figure:
    """Plot test images beside images that the flow generates, at one or several temperatures.

    Raises:
        FlowvaeError: for data that are not images.
    """
    check_images(data)
    columns = columns_within(data.shape, panels=len(temperatures) + 1)
    count = columns * rows_within(data.shape)
    panels = [Panel(data.original(first(data.test, count).cpu()), columns, f"{data.name}: test images")]
    for temperature in temperatures:
        with seeded(derive(seed, "samples")):
            drawn = model.generate(count, temperature)
        panels.append(Panel(data.original(drawn.cpu()), columns, f"generated, temperature {temperature:g}"))
    return draw_panels(panels, value_range(data))[0]


def plot_flow_interpolation(model: FlowModel, data: Dataset, pairs: int = 6, steps: int = 9, seed: int = 0) -> Figure:
    """Plot paths from one test image to another: through the base space of the flow, and by mixing pixels.

    Pairs are random, with different labels if there are labels.

    Raises:
        FlowvaeError: for data that are not images.
    """
    check_images(data)
    start, end = different_pairs(data, pairs, seed)
    share = torch.linspace(0, 1, steps).reshape(-1, *(1,) * start.ndim)
    ways = interpolate(model, start, end, steps), (1 - share) * start + share * end
    titles = "through the base: T(u(t))", "pixels: (1 − t) x₀ + t x₁"
    panels = [
        Panel(data.original(way.transpose(0, 1).flatten(0, 1).cpu()), steps, title)
        for way, title in zip(ways, titles, strict=True)
    ]
    return draw_panels(panels, value_range(data))[0]


@torch.no_grad()
@in_eval_mode
def plot_density(model: FlowModel, data: Dataset, title: str = "density of the flow") -> Figure:
    """Plot 2-D data beside the density of the flow and, if known, the true density.

    Raises:
        FlowvaeError: for data that are not 2-D.
    """
    _plane(data)
    test = preview(data.test)
    low, high = test.amin(0), test.amax(0)
    margin = 0.12 * (high - low)
    low, high = low - margin, high + margin
    x, y = (torch.linspace(a, b, NODES) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    pictures = [(title, np.exp(on_grid(model.flow().log_prob, x, y)))]
    if data.log_evidence is not None:
        pictures.append(("true density", np.exp(on_grid(data.log_evidence, x, y))))
    figure = new_figure((3.6 * (len(pictures) + 1), 3.0))
    axes = figure.subplots(1, len(pictures) + 1, sharex=True, sharey=True)
    extent = (x[0].item(), x[-1].item(), y[0].item(), y[-1].item())
    top = max(float(density.max()) for _, density in pictures)
    for ax, (name, density) in zip(axes[1:], pictures, strict=True):
        shown = ax.imshow(density, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=top, aspect="equal")
        ax.set_title(name, fontsize=10)
        ax.tick_params(labelsize=7)
    figure.colorbar(shown, ax=axes[1:], label="density", shrink=0.8)
    _cloud(axes[0], test[:POINTS], f"{data.name}: test data", color=BLUE)
    axes[0].set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    return figure


@torch.no_grad()
@in_eval_mode
def plot_steps(model: FlowModel, data: Dataset, seed: int = 0) -> Figure:
    """Plot draws of the base, their images after each transform in the *generative* direction, and the data.

    The colour of a point is its direction from the origin of the base. Since the base is connected and a flow is
    continuous, some density remains between two moons.

    Raises:
        FlowvaeError: for data that are not 2-D.
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
    figure = new_figure((2.3 * columns, 2.5 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (title, points) in zip(axes, clouds, strict=False):
        _cloud(ax, points, title, c=colour, cmap="hsv")
    _cloud(axes[len(clouds)], first(data.test, POINTS), f"{data.name}: test data", color="#555555")
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
    if data.shape != (2,):
        raise FlowvaeError(
            f"{data.name}: data points of shape {tuple(data.shape)}; this figure needs shape (2,), such as Moons()."
        )
