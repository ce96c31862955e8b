"""The figure of the explorer: a point of the base space, its code, and the decoded data point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, first, preview
from flowvae.evaluation.figures.drawing import BLUE, RED, new_figure, on_grid
from flowvae.evaluation.figures.images import as_rgb, is_image, value_range
from flowvae.evaluation.latent.aggregated_posterior import AggregatedPosterior, WithPosterior, draw_codes
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.evaluation.latent.holes import QUANTILE
from flowvae.evaluation.latent.principal_plane import principal_plane
from flowvae.models import VAE
from flowvae.networks import eval_mode, in_eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.path import Path

__all__ = ["Scene", "draw_state"]

SIZE = (11.0, 3.9)  # width and height of a figure, inches
REACH = 3.0  # half-width of the visible part of the base space, standard deviations
POINTS = 300  # codes in a cloud
MIXED = 1000  # largest number of training data points in q̄
FINE, COARSE = 161, 61  # grid nodes per side of a density that is computed once, and of one computed for every point
MARK_SIZE = 6.0  # height of a code's marker, points
NEAR = 0.2  # share of the codes that count as close to the plane


class Scene:
    """The part of the figure that does not depend on the point: test codes, their base points, and the density.

    Args:
        model: VAE with 2 or more latent dimensions.
        guide: its guide.
        data: the data set; its test data are shown, and q̄ is that of at most 1000 training data points.
        seed: random seed of the codes, one per data point.

    Attributes:
        latent: dimension of the code.
        has_base: whether the prior is N(0, I) under a known bijection; otherwise (a mixture) a point *is* its code.
        codes: codes of test data, shape (N, latent), N ≤ 300.
        points: the codes mapped to the space of the point, shape (N, latent).
        plane: the two dimensions of this space in which the codes vary most.
        span: values drawn as black and as white, if the data are images.
        hole: threshold of log q̄(z) in nats below which z lies in a hole, the 5 % quantile at these codes.

    Raises:
        FlowvaeError: for a latent of one dimension.
    """

    @torch.no_grad()
    @in_eval_mode
    def __init__(self, model: VAE, guide: WithPosterior, data: Dataset, seed: int = 0) -> None:
        self.model, self.data = model, data
        self.prior = model.prior()
        self.latent: int = self.prior.event_shape[0]
        if self.latent < 2:
            raise FlowvaeError(
                "latent = 1: the explorer needs 2 dimensions or more; train with latent 2 or more, or use plot_latent."
            )
        self.has_base = has_base(self.prior)
        self.device = next(model.parameters()).device
        self.x = first(data.test, POINTS).to(self.device)
        self.codes = draw_codes(guide, self.x, 1, derive(seed, "explorer"))[0][0]
        self.points = to_base(self.prior, self.codes) if self.has_base else self.codes
        most, second = self.points.var(0).argsort(descending=True)[:2].tolist() if self.latent > 2 else (0, 1)
        self.plane = most, second
        self.log_prior = self.prior.log_prob(self.codes)
        train = first(data.train, MIXED).to(self.device)
        self.aggregated = AggregatedPosterior(guide, train, patience=math.inf, progress=True)
        self.hole = self.aggregated.log_prob(self.codes).quantile(QUANTILE).item()
        with seeded(derive(seed, "explorer", "window")):
            both = torch.cat((self.codes, self.prior.sample((1000,))))
        ends = torch.tensor((0.002, 0.998), dtype=both.dtype, device=both.device)
        self._window = both.quantile(ends, dim=0).numpy(force=True)
        self._density: dict[tuple[int, int], Any] = {}
        self.test = preview(data.test)
        self.span = value_range(data)
        self.components = principal_plane(self.test.flatten(1).numpy(force=True))
        self.marks, self.colours = _marks(data, len(self.codes))

    @property
    def symbol(self) -> str:
        """Symbol of the space of the point: u with a base space, z without."""
        return "u" if self.has_base else "z"

    def reach(self, plane: tuple[int, int]) -> tuple[np.ndarray[Any, Any], float]:
        """Centre, shape (2,), and half side length of the visible square of code space."""
        low, high = self._window[:, list(plane)]
        return (low + high) / 2, float(0.54 * (high - low).max())

    def draw(self, seed: int) -> Tensor:
        """Draw a point, shape (latent,), from the base N(0, I) or, without a base space, from the prior."""
        with eval_mode(self.model), seeded(derive(seed, "point")):
            return torch.randn(self.latent).to(self.codes) if self.has_base else self.prior.sample()

    @torch.no_grad()
    def code(self, point: Tensor) -> Tensor:
        """Map points to codes z = T(u), shape (..., latent); without a base space the identity."""
        with eval_mode(self.model):
            return from_base(self.prior, point) if self.has_base else point

    @torch.no_grad()
    def density(self, z: Tensor, plane: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Compute log p in nats on a plane through the code z (latent,): two coordinates vary, the others are fixed.

        A 2-D latent space has a single plane, whose density is computed once.

        Returns:
            Nodes of both coordinates, shape (2, n), and log p, shape (n, n), one row per node of the second.
        """
        if plane in self._density:
            return self._density[plane]
        centre, half = self.reach(plane)
        nodes = FINE if self.latent == 2 else COARSE
        sides = centre[:, None] + np.linspace(-half, half, nodes)

        def on_plane(places: Tensor) -> Tensor:
            codes = z.repeat(len(places), 1)
            codes[:, list(plane)] = places
            density: Tensor = self.prior.log_prob(codes)
            return density

        with eval_mode(self.model):
            log_density = on_grid(on_plane, *torch.as_tensor(sides).to(z))
        if self.latent == 2:
            self._density[plane] = sides, log_density
        return sides, log_density

    def check(self, point: Tensor | Sequence[float], plane: tuple[int, int] | None) -> tuple[Tensor, tuple[int, int]]:
        """Validate a point and a plane, which defaults to the one in which codes vary most.

        Raises:
            FlowvaeError: for a point of another shape or not finite, or a plane that is not two of the dimensions.
        """
        u = torch.as_tensor(point).to(self.codes)
        if u.shape != (self.latent,) or not u.isfinite().all():
            raise FlowvaeError(f"point = {point}: must be {self.latent} finite numbers, one per latent dimension.")
        plane = self.plane if plane is None else plane
        if len(set(plane)) != 2 or len(plane) != 2 or not all(i in range(self.latent) for i in plane):
            raise FlowvaeError(f"plane = {plane}: must be two different dimensions from 0 to {self.latent - 1}.")
        return u, plane


@torch.no_grad()
def draw_state(
    scene: Scene,
    point: Tensor | Sequence[float],
    plane: tuple[int, int] | None = None,
    on: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw base space with the point u, code space with z = T(u) and the prior's density, and the decoded E[x | z].

    Code space shows the images under T of the lines through u along both dimensions (solid and dashed) and, for a 2-D
    latent, of the circles of the base. Codes of test data represent the aggregated posterior, marked by label if there
    are labels. With more than two dimensions the density is that on the plane through z with all other coordinates
    fixed, and the fifth of the codes whose other coordinates are closest to those of z is opaque.

    Args:
        scene: model and data.
        point: u, shape (latent,); for a prior without a base space the code z.
        plane: the two visible dimensions, counted from 0; by default those in which the codes vary most.
        on: figure or subfigure to draw on: an empty one, or one with an earlier state of the same scene, which is
            replaced; that is faster, since the axes are kept.

    Raises:
        FlowvaeError: for a point or a plane that does not fit the latent space.
    """
    u, plane = scene.check(point, plane)
    z = scene.code(u)
    figure = new_figure(SIZE, fixed=True) if on is None else on
    for text in list(figure.texts):
        text.remove()
    # fixed positions, since a layout engine would take longer than everything else
    base, code = _axes(figure, 0, (0.05, 0.13, 0.275, 0.775)), _axes(figure, 1, (0.385, 0.13, 0.275, 0.775))
    lines = [_line(u, dimension) for dimension in plane]
    if scene.has_base:
        _draw_base(base, scene, u, plane, lines)
    else:
        base.text(0.5, 0.5, "This prior has no base space.\nMove in code space, z itself.", ha="center", va="center")
        base.axis("off")
    _draw_codes(code, scene, z, plane, [scene.code(line) for line in lines] if scene.has_base else [])
    with eval_mode(scene.model):
        _draw_decoded(figure, scene, z)
    return figure


def _axes(figure: Figure | SubFigure, number: int, place: tuple[float, float, float, float]) -> Axes:
    """Return new axes, or existing ones of the figure after clearing them."""
    if number == len(figure.axes):
        ax = figure.add_axes(place)
        ax.tick_params(labelsize=8)
        # labels at fixed distances in points, so that no text is measured
        ax.xaxis.set_label_coords(0.5, -18 / (72 * SIZE[1] * place[3]))
        ax.yaxis.set_label_coords(-22 / (72 * SIZE[0] * place[2]), 0.5)
        return ax
    ax = figure.axes[number]
    for artist in (*ax.lines, *ax.collections, *ax.images, *ax.texts):
        artist.remove()
    return ax


def _line(u: Tensor, dimension: int) -> Tensor:
    """Points with one coordinate from −3 to 3 and the others fixed, shape (61, latent)."""
    line = u.repeat(61, 1)
    line[:, dimension] = torch.linspace(-REACH, REACH, 61)
    return line


def _circles() -> Tensor:
    angle = torch.linspace(0, 2 * math.pi, 181)
    return torch.stack([radius * torch.stack((angle.cos(), angle.sin()), -1) for radius in (1, 2, 3)])


def _draw_base(ax: Axes, scene: Scene, u: Tensor, plane: tuple[int, int], lines: list[Tensor]) -> None:
    for circle in _circles():
        ax.plot(*circle.T, color="#888888", linewidth=0.7)
    _cloud(ax, scene, scene.points, u, plane)
    _cross(ax, lines, u, plane)
    reach = 1.12 * REACH
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    _finish(ax, "base space: N(0, I), circles of radius 1, 2, 3", "u", plane)


def _draw_codes(ax: Axes, scene: Scene, z: Tensor, plane: tuple[int, int], lines: list[Tensor]) -> None:
    sides, log_density = scene.density(z, plane)
    centre, half = scene.reach(plane)
    step = (sides[:, 1] - sides[:, 0]) / 2
    extent = (sides[0, 0] - step[0], sides[0, -1] + step[0], sides[1, 0] - step[1], sides[1, -1] + step[1])
    # the square root makes tails visible, and grey of at most half the darkness keeps the codes legible
    relative = np.exp(0.5 * (log_density - log_density.max()))
    ax.imshow(relative, extent=extent, origin="lower", cmap="Greys", vmin=0, vmax=2, interpolation="bilinear")
    if scene.latent == 2 and scene.has_base:
        for circle in scene.code(_circles().to(z)):
            ax.plot(*circle[:, list(plane)].T.numpy(force=True), color="#888888", linewidth=0.7)
    _cloud(ax, scene, scene.codes, z, plane)
    _cross(ax, lines, z, plane)
    here = z[list(plane)].numpy(force=True)
    half = max(half, 1.04 * float(np.abs(here - centre).max()))  # widen the window for a point outside
    ax.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    shown = "prior" if scene.latent == 2 else "slice of the prior"
    _finish(ax, f"code space: {shown} (grey), test codes", "z", plane)


def _finish(ax: Axes, title: str, letter: str, plane: tuple[int, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set(xlabel=f"${letter}_{{{plane[0]}}}$", ylabel=f"${letter}_{{{plane[1]}}}$", aspect="equal")
    _title(ax, title)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))


def _title(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9.5, y=1.015)  # a fixed height, so that no text is measured


def _cross(ax: Axes, lines: list[Tensor], point: Tensor, plane: tuple[int, int]) -> None:
    for line, style in zip(lines, ("-", (0, (4, 2))), strict=False):
        ax.plot(*line[:, list(plane)].T.numpy(force=True), color=RED, linewidth=1.1, linestyle=style)
    here = point[list(plane)].numpy(force=True)
    ax.plot(*here, "o", color=RED, markeredgecolor="white", markeredgewidth=1.5, markersize=10, zorder=5)


def _cloud(ax: Axes, scene: Scene, codes: Tensor, point: Tensor, plane: tuple[int, int]) -> None:
    """Draw the codes, marked and coloured by label; those far from the plane are faint."""
    from matplotlib.collections import PathCollection
    from matplotlib.transforms import IdentityTransform

    others = [i for i in range(scene.latent) if i not in plane]
    far = (codes - point)[:, others].norm(dim=1).numpy(force=True)
    close = far <= np.quantile(far, NEAR) if others else np.full(len(codes), True)
    colours = scene.colours.copy()
    colours[:, 3] = np.where(close, 0.9, 0.3)
    order = np.argsort(close, kind="stable")  # opaque marks on top of faint ones
    cloud = PathCollection(  # one collection for all; one per label would take ten times as long
        [scene.marks[i] for i in order],
        sizes=[MARK_SIZE**2],
        offsets=codes[:, list(plane)].numpy(force=True)[order],
        offset_transform=ax.transData,
        facecolors=colours[order],
        linewidths=0,
    )
    cloud.set_transform(IdentityTransform())  # marks have a fixed size in points
    ax.add_collection(cloud, autolim=False)


def _draw_decoded(figure: Figure | SubFigure, scene: Scene, z: Tensor) -> None:
    """Draw E[x | z], the nearest test data point, and below them the log-densities of the code."""
    mean = scene.model.mean(z)
    test = scene.test.to(mean)
    nearest = int((test - mean).square().flatten(1).sum(1).argmin())
    labels = (scene.data.labels or {}).get("test")
    names = scene.data.classes
    label = "" if labels is None else f": {names[int(labels[nearest])] if names else int(labels[nearest])}"
    images_shown = is_image(scene.data.shape)
    if images_shown:
        images = (mean, "decoded: E[x | z]"), (test[nearest], f"nearest test image{label}")
        for number, (x, title) in enumerate(images):
            ax = _axes(figure, 2 + number, (0.70 + 0.155 * number, 0.43, 0.135, 0.475))
            ax.imshow(as_rgb(scene.data.original(x), scene.span), interpolation="nearest")
            _title(ax, title)
            ax.set(xticks=[], yticks=[])
    else:
        _draw_among(_axes(figure, 2, (0.725, 0.38, 0.26, 0.525)), scene, mean, test)
    log_p, log_q = scene.prior.log_prob(z).item(), scene.aggregated.log_prob(z[None]).item()
    less = (scene.log_prior < log_p).double().mean().item()
    hole = log_q < scene.hole
    figure.text(
        0.70,
        0.36 if images_shown else 0.235,
        f"log p(z) = {log_p:.1f} nats, {less:.0%} of test codes have less\n"
        f"log q̄(z) = {log_q:.1f} nats, {'below' if hole else 'above'} the 5 % quantile\n"
        f"of test codes, {scene.hole:.1f}: {'z lies IN A HOLE' if hole else 'no hole'}",
        fontsize=8.5,
        linespacing=1.5,
        va="top",
    )


def _draw_among(ax: Axes, scene: Scene, mean: Tensor, test: Tensor) -> None:
    """Draw the mean among the test data in two dimensions, for data that are not images."""

    def seen(x: Tensor) -> np.ndarray[Any, Any]:
        points = x.flatten(1).numpy(force=True)
        projected = scene.components.transform(points) if scene.components else points[:, [0, -1]]
        return np.asarray(projected)

    cloud, here = seen(test[:POINTS]), seen(mean[None])
    ax.scatter(cloud[:, 0], cloud[:, 1], s=5, color="#8a8a8a", linewidths=0)
    ax.plot(*here.T, "o", color=RED, markeredgecolor="white", markeredgewidth=1.5, markersize=10)
    axes = [f"principal component {i} of x" for i in (1, 2)] if scene.components else ["first column", "last column"]
    both = np.concatenate((cloud, here))
    low, high = both.min(0), both.max(0)
    margin = 0.06 * (high - low)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    _title(ax, "decoded: E[x | z] among test data")
    ax.set_xlabel(axes[0], fontsize=9)
    ax.set_ylabel(axes[1], fontsize=9)


def _marks(data: Dataset, count: int) -> tuple[list[Path], np.ndarray[Any, Any]]:
    """Markers of height 1 for the first test data points, with colours, shape (count, 4).

    A marker is a dot or, with labels, the number or the first two letters of the class.
    """
    from matplotlib.colors import to_rgba_array
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    labels = (data.labels or {}).get("test")
    dot = Path.unit_circle().transformed(Affine2D().scale(0.25))
    if labels is None or len(labels.unique()) > 10:
        return [dot] * count, to_rgba_array([BLUE] * count)
    names = labels.unique().tolist()
    shapes = {}
    for name in names:
        text = TextPath((0, 0), data.classes[int(name)][:2] if data.classes else str(name), size=1)
        box = text.get_extents()
        centred = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2)
        shapes[name] = text.transformed(centred.scale(1 / box.height))
    own = labels[:count].tolist()
    return [shapes[name] for name in own], to_rgba_array([f"C{names.index(name)}" for name in own])
