"""Figures of generated data: beside test data, and beside their nearest training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from flowvae.core.errors import FlowvaeError, check_int_value, nearest, shown
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, Source, preview
from flowvae.evaluation.figures.drawing import BLUE, new_figure
from flowvae.evaluation.figures.images import BREAK, check_images, is_image, value_range
from flowvae.evaluation.figures.inputs import first_of, prior_draws
from flowvae.evaluation.figures.panels import Panel, columns_within, draw_panels, label_width, rows_within
from flowvae.evaluation.latent.principal_plane import axis_label, principal_plane
from flowvae.evaluation.samples.neighbours import nearest_neighbours
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_neighbours", "plot_samples"]

POINTS = 2000  # points in a cloud
CLASSES = 10  # largest number of rows of samples by class
KINDS = ("means", "draws", "both")


@torch.no_grad()
@in_eval_mode
def plot_samples(model: VAE, data: Dataset, seed: int = 0, of: str | None = None) -> Figure:
    """Plot test data beside generated data, as images or as a scatter plot of two directions.

    A model conditioned on labels generates images by class, one row a class. Other conditional models use the
    conditions of the test data, with each generated image at the position of its test image.

    Args:
        model: the model.
        data: the data set that it was fitted to.
        seed: random seed of the generated data.
        of: generated images: "means" E[x | z], "draws" of x from p(x | z) or "both", for the same z; None: both, but
            only means of independent bits, whose draws are noise around them, and only draws of an autoregressive
            likelihood, whose means are blurred and slow. Other data are always drawn.

    Raises:
        FlowvaeError: for an unknown `of`.
    """
    if of is not None and of not in KINDS:
        raise FlowvaeError(f"of = {shown(of)}: {nearest(str(of), KINDS)}")
    if is_image(data.shape):
        return _plot_images(model, data, seed, of or _kind(model, data))
    c = first_of(data, POINTS, model).c
    with seeded(derive(seed, "samples")):
        codes = prior_draws(model, min(POINTS, len(data.test)), c)
        generated = model.decode(codes, c).sample().flatten(1)
    figure = new_figure((9, 4.6))
    test = preview(data.test).flatten(1)
    centre = test.mean(0)
    plane = principal_plane((test - centre).numpy(force=True))
    left = None
    for place, (x, title) in enumerate(((test[:POINTS], f"{data.name}: test data"), (generated, "generated")), start=1):
        ax = figure.add_subplot(1, 2, place, sharex=left, sharey=left)
        left = left or ax
        points = (x.cpu() - centre.cpu()).numpy(force=True)
        points = plane.transform(points) if plane else points
        ax.scatter(points[:, 0], points[:, -1], s=4, alpha=0.5, color=BLUE, linewidths=0)
        ax.set(title=title, xlabel=axis_label("x", 1, plane), ylabel=axis_label("x", min(2, data.features), plane))
    return figure


def _kind(model: VAE, data: Dataset) -> str:
    """The kind of generated images that is most informative for the likelihood."""
    c = first_of(data, 1, model).c
    with seeded(0):
        decoded = model.decode(prior_draws(model, 1, c), c)
    if hasattr(decoded, "conditional_mean"):  # of a value given earlier ones
        return "draws"
    return "means" if data.likelihood.largest == 1 else "both"


def _plot_images(model: VAE, data: Dataset, seed: int, of: str) -> Figure:
    kinds = ("means", "draws") if of == "both" else (of,)
    by_class = model.condition is not None and model.condition.on == "labels"
    classes = _classes(data) if by_class else {}
    columns = columns_within(data.shape, panels=1 + len(kinds), reserved=label_width(list(classes)))
    columns = min(len(data.test), columns)
    batch = first_of(data, columns * rows_within(data.shape), model)
    test, c = batch.args[0], batch.c
    if c is not None and by_class:
        test = _test_by_class(data, classes, columns)
        c = one_hot(torch.tensor(list(classes.values())).repeat_interleave(columns), data.class_count).to(c)
    with seeded(derive(seed, "samples")):
        codes = prior_draws(model, len(test), c)
        drawn = [model.mean(codes, c) if kind == "means" else model.decode(codes, c).sample() for kind in kinds]
    means = "P(x = 1 | z)" if data.likelihood.largest == 1 else "E[x | z]"
    titles = {"means": f"generated: means {means}", "draws": "generated: draws of x"}
    some = f" of {len(classes)} of {data.class_count} classes" if by_class and len(classes) < data.class_count else ""
    panels = [Panel(data.original(test.cpu()), columns, f"{data.name}: test images{some}", list(classes))]
    panels += [Panel(data.original(x.cpu()), columns, titles[kind]) for kind, x in zip(kinds, drawn, strict=True)]
    return draw_panels(panels, value_range(data))[0]


def _classes(data: Dataset) -> dict[str, int]:
    """Names and numbers of at most 10 classes, evenly spaced."""
    count = data.class_count
    chosen = torch.linspace(0, count - 1, min(count, CLASSES)).round().long().tolist()
    return {data.classes[number] if data.classes else str(number): number for number in chosen}


def _test_by_class(data: Dataset, classes: dict[str, int], columns: int) -> Tensor:
    """Test images (classes · columns, C, H, W), one row a class; missing images are NaN."""
    labels = (data.labels or {}).get("test", torch.empty(0)).cpu()
    images = torch.full((len(classes), columns, *data.shape), torch.nan, dtype=data.train.dtype)
    for row, number in enumerate(classes.values()):
        places = (labels == number).nonzero()[:columns, 0]
        if len(places):
            images[row, : len(places)] = _rows(data.test, places)
    return images.flatten(0, 1)


@torch.no_grad()
@in_eval_mode
def plot_neighbours(
    model: VAE,
    data: Dataset,
    seed: int = 0,
    count: int | None = None,
    k: int = 5,
    features: Callable[[Tensor], Tensor] | None = None,
    of: str | None = None,
    searched: int | None = None,
) -> Figure:
    """Plot generated images, each beside its k nearest training images.

    A copy of a training image appears twice in a row. Generated images close to training images are no evidence of
    copying by themselves: `measure_memorization` compares with held-out images.

    Args:
        model: the model.
        data: images.
        seed: random seed of the generated images.
        count: number of generated images; None: as many as are legible.
        k: number of training images for each.
        features: feature map of images, such as that of `load_features`, for distances besides those of the pixels.
        of: "means" E[x | z], or "draws" of x; None: means, but draws of an autoregressive likelihood.
        searched: number of training images to search, the first ones; None: all.

    Raises:
        FlowvaeError: for data that are not images, an unknown `of`, or a number below 1.
    """
    check_images(data)
    if of is None:
        of = "draws" if _kind(model, data) == "draws" else "means"
    elif of not in KINDS[:2]:
        raise FlowvaeError(f"of = {shown(of)}: {nearest(str(of), KINDS[:2])}")
    for name, value in (("k", k), ("searched", len(data.train) if searched is None else searched)):
        check_int_value(name, value)
    among = min(len(data.train), searched or len(data.train))
    k = min(k, among)
    halves = 1 if features or columns_within(data.shape, panels=2, reserved=2 * BREAK) <= k else 2
    rows = rows_within(data.shape)
    count = halves * rows if count is None else count
    check_int_value("count", count)
    rows = -(-count // halves)
    c = first_of(data, count, model).c
    c = c if c is None else c[torch.arange(count) % len(c)]  # there may be fewer conditions than images
    with seeded(derive(seed, "samples")):
        codes = prior_draws(model, count, c)
        x = model.mean(codes, c) if of == "means" else model.decode(codes, c).sample()
    groups = [x[:, None].cpu()]
    for distance in (None, features) if features else (None,):
        _, places = nearest_neighbours(x, data.train, k, distance, among)
        groups.append(_rows(data.train, places.flatten()).unflatten(0, (-1, k)))
    images = data.original(torch.cat(groups, 1))
    images = torch.cat((images, images.new_full((rows * halves - count, *images.shape[1:]), torch.nan)))
    heads = ["generated", "in pixels" if features else "nearest", *[""] * (k - 1)]
    first_ones = "" if among == len(data.train) else "first "
    panel = Panel(
        images.unflatten(0, (halves, rows)).transpose(0, 1).flatten(0, 2),
        halves * images.shape[1],
        f"{data.name}: generated images ({of}) and their nearest among the {first_ones}{among:,} training images",
        heads=[*heads * halves, "in features"] if features else heads * halves,
        breaks=[1, 1 + k, 1 + k, *[2 + k] * (halves - 1)],
    )
    return draw_panels([panel], value_range(data))[0]


def _rows(x: Tensor | Source, places: Tensor) -> Tensor:
    """Data at these indices (M,), on the CPU."""
    return x[places.to(x.device)].cpu() if isinstance(x, Tensor) else x[places.cpu()]
