"""The figure of latent traversals: one image, with one coordinate of its code changed at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value, nearest, shown
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.evaluation.figures.images import check_images, value_range
from flowvae.evaluation.figures.inputs import first_of
from flowvae.evaluation.figures.panels import Panel, draw_panels, rows_within
from flowvae.evaluation.latent.activity import activity_terms
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_traversal", "traversal"]

REACH = 3.0  # range of the coordinate on both sides, in standard deviations of a Gaussian with the same quantiles
DATA, DRAWS = 256, 16  # images, and codes of each, for the activity of units
PRIOR, VALUES = 10_000, 2**24  # draws from the prior, and the largest number of their values
SPACES, CENTRES = ("latent", "base"), ("image", "prior")


@torch.no_grad()
@in_eval_mode
def plot_traversal(
    model: VAE,
    guide: AmortizedGuide,
    data: Dataset,
    seed: int = 0,
    units: int | None = None,
    steps: int = 11,
    space: str = "latent",
    around: str = "image",
    split: str = "test",
) -> Figure:
    """Plot an image decoded with one coordinate of its code changed: one row a unit, the most active ones first.

    A coordinate takes the quantiles of the prior at the levels that N(0, 1) has at −3 to 3; the other coordinates are
    fixed. In the base space of a flow prior, changing u_j can change several coordinates of z = T(u). On the right is
    the activity, Var_x E[z_j | x] / Var p(z_j): a unit of activity 0 ignores the image.

    Args:
        model: the model.
        guide: its guide.
        data: images.
        seed: random seed of the code and the draws from the prior.
        units: largest number of rows; None: as many as are legible.
        steps: images in a row, 2 or more.
        space: "latent", or "base" for the coordinates of u.
        around: "image": a code of the first image of the split; "prior": the prior's mean, in base space u = 0.
        split: split of the image; a conditional model uses the image's condition.

    Raises:
        FlowvaeError: for data that are not images, an unknown `space` or `around`, or a prior without a base space.
    """
    check_images(data)
    check_int_value("steps", steps, least=2)
    for name, word, words in (("space", space, SPACES), ("around", around, CENTRES)):
        if word not in words:
            raise FlowvaeError(f"{name} = {shown(word)}: {nearest(str(word), words)}")
    units = rows_within(data.shape, 600) if units is None else units
    check_int_value("units", units)
    batch = first_of(data, DATA, model, split)
    own = None if batch.c is None else batch.c[:1]
    prior = model.prior_given(batch.c)
    if space == "base" and not has_base(prior):
        raise FlowvaeError(f"space = 'base': {type(prior).__name__} has no base space; use a flow, or space='latent'.")
    with seeded(derive(seed, "codes")):
        codes = guide.posterior(*batch.args).sample((DRAWS,))
    count = max(DATA, min(PRIOR, VALUES // codes.shape[-1]))
    with seeded(derive(seed, "prior")):
        drawn = model.prior_given(own).sample((count,)).reshape(count, -1)  # for the condition of the image
        variance = prior.sample((count // len(batch) + 1,) if prior.batch_shape else (count,)).flatten(0, -2).var(0)
    centre = drawn.mean(0)
    if space == "base":
        codes, centre, variance = to_base(prior, codes), torch.zeros_like(centre), torch.ones_like(variance)
    if around == "image":
        centre = codes[0, 0]
    activity = _signal(codes) / variance
    chosen = activity.argsort(descending=True)[:units]
    scores = torch.linspace(-REACH, REACH, steps, dtype=centre.dtype)
    ranks = torch.special.ndtr(scores)
    values = scores.expand(len(chosen), -1) if space == "base" else drawn[:, chosen].cpu().quantile(ranks, 0).T
    changed = traversal(centre, chosen, values.to(centre)).flatten(0, 1)
    c = None if own is None else own.expand(len(changed), -1)
    z = from_base(model.prior_given(c), changed) if space == "base" else changed
    letter = "u" if space == "base" else "z"
    of = f"the first {split} image" if around == "image" else "the prior's mean"
    panel = Panel(
        data.original(model.mean(z, c).cpu()),
        steps,
        f"{data.name}: {of}, decoded with each coordinate {letter}ⱼ at quantiles of the prior",
        labels=[f"${letter}_{{{unit}}}$" for unit in chosen.tolist()],
        notes=[f"{value:.2f}" for value in activity[chosen].tolist()],
        heads=[f"{100 * p:.1f} %" if not 0.05 < p < 0.95 else f"{100 * p:.0f} %" for p in ranks.tolist()],
        note_head="activity",
    )
    return draw_panels([panel], value_range(data))[0]


def traversal(code: Tensor, units: Tensor, values: Tensor) -> Tensor:
    """Replace single coordinates of a code.

    Args:
        code: the code, shape (D,).
        units: indices of coordinates, shape (U,).
        values: values of each coordinate, shape (U, steps).

    Returns:
        Codes, shape (U, steps, D): in row u only coordinate units[u] differs from the code.
    """
    codes = code.repeat(*values.shape, 1)
    return codes.scatter(-1, units[:, None, None].expand(*values.shape, 1), values[..., None])


def _signal(codes: Tensor) -> Tensor:
    """Var_x E[z_j | x] of codes (S, N, D), shape (D,); 0 for a single data point."""
    if codes.shape[1] < 2:
        return torch.zeros_like(codes[0, 0])
    return activity_terms(codes.mean(0), codes.var(0) / len(codes)).mean(0).clamp_min(0)
