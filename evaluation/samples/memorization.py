"""Whether a model repeats its training data: generated data nearer to them than held-out data are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.data import Dataset
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.samples.sampling import equal_sizes, generate, rows

__all__ = ["Memorization", "measure_memorization", "nearest_in", "two_sample_z"]

CHUNK = 1024  # rows of a matrix of all pairs that are in memory at a time


@dataclass(frozen=True)
class Memorization:
    """Distances to the nearest training datum, in the principal components of the training data.

    Args:
        samples: what was generated, shape (n, D).
        generated: distance of each to its nearest training datum, (n,), in units of the data.
        neighbours: row of that datum in train, (n,).
        held_out: the same distance for n data of the split, (n,).
        of: "draws" or "means", what was generated.
        components: how many principal components.
        share: of the training data's variance that they hold.
        seed: of the generated data and of the choice among the data.
    """

    samples: Tensor
    generated: Tensor
    neighbours: Tensor
    held_out: Tensor
    of: str
    components: int
    share: float
    seed: int

    @property
    def z(self) -> float:
        """Mann–Whitney z of the distances: below −3, generated data are nearer to train than held-out data are."""
        return two_sample_z(self.generated, self.held_out)

    @property
    def nearer(self) -> tuple[float, float]:
        """P(a generated datum is nearer to train than a held-out one), ½ if nothing is copied, and its s.e.

        The error is DeLong's, which holds whatever the two laws are.
        """
        a, b = self.generated.double(), self.held_out.double()
        of_a = _share_above(a, b)  # of held-out data, for each generated datum, those that are farther away
        of_b = _share_above(b, a)
        variance = of_a.var() / len(a) + of_b.var() / len(b)
        return float(of_a.mean()), float(variance.sqrt())

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """z, and the share of pairs in which the generated datum is the nearer one; means' are `…_of_means`."""
        how = {
            "generated": self.of,
            "n": len(self.generated),
            "components": self.components,
            "share_of_variance": self.share,
            "seed": self.seed,
        }
        end = "" if self.of == "draws" else f"_of_{self.of}"
        return [
            Metric(f"memorization_z{end}", self.z, 1.0, "N(0, 1) if nothing is copied", split, protocol | how),
            Metric(f"nearer_than_held_out{end}", *self.nearer, "share of pairs", split, protocol | how),
        ]


@torch.no_grad()
def measure_memorization(
    model: Callable[..., Any],
    data: Dataset,
    *,
    split: str = "test",
    of: str = "draws",
    count: int | None = None,
    components: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Memorization:
    """The test of Meehan et al. for data-copying, over the whole space.

    Its null is that the distance to train has the same law for generated and for held-out data. A distance by itself
    says nothing: in dense places held-out data are near to train too. Means E[x | z] lack the noise of the data and
    are nearer to everything, so they look copied when they are not; use them to find pairs for the eye only. Copying
    in one region can hide behind too distant samples in another; z is of all of them together.

    Args:
        model: Pyro model that generates data by `model(size=…)`.
        data: the data set that it was fitted to.
        split: the held-out data, "valid" or "test".
        of: "draws" x ~ p(x | z), or "means" E[x | z].
        count: n of held-out and of generated data; None: all of the split, 2000 at most.
        components: of the principal component analysis of train; fewer, if the data have fewer columns or rows.
        seed: decides what is generated and which data are taken.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for a count that the split does not have, or components below 1.

    References:
        Meehan, Chaudhuri & Dasgupta (2020), "A Non-Parametric Test to Detect Data-Copying in Generative Models".
    """
    check_int_value("components", components)
    count = equal_sizes(data, split, count)
    samples = generate(model, count, of, seed, progress)
    train = data.train.double()
    components = min(components, *train.shape)
    center = train.mean(0)
    _, scales, axes = torch.linalg.svd(train - center, full_matrices=False)
    axes = axes[:components].T
    near, neighbours = nearest_in((train - center) @ axes, (samples.to(train) - center) @ axes)
    held_out, _ = nearest_in((train - center) @ axes, (rows(data, split, count, seed).to(train) - center) @ axes)
    share = float(scales[:components].square().sum() / scales.square().sum())
    return Memorization(samples.cpu(), near.cpu(), neighbours.cpu(), held_out.cpu(), of, components, share, seed)


def nearest_in(train: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each row of x (M, d) to the nearest row of train (N, d), and which it is, both (M,).

    Distances are summed column by column, so that a copy is at the distance 0 and not at rounding's.
    """
    found = [torch.cdist(few, train, compute_mode="donot_use_mm_for_euclid_dist").min(1) for few in x.split(CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def two_sample_z(a: Tensor, b: Tensor) -> float:
    """Mann–Whitney's U in standard units, with ties: below 0 where values of a (n,) are smaller than those of b (m,).

    N(0, 1) for large n and m if both have the same law; 0 if all values are equal.
    """
    n, m = len(a), len(b)
    ranks = torch.as_tensor(rankdata(torch.cat((a, b)).numpy(force=True)))
    above = float(ranks[:n].sum()) - n * (n + 1) / 2  # pairs in which a is larger, ties half
    # the variance of ranks drawn without replacement, in which ties count of themselves
    variance = n * m / (n + m) * float(ranks.var())
    return (above - n * m / 2) / math.sqrt(variance) if variance else 0.0


def _share_above(a: Tensor, b: Tensor) -> Tensor:
    """For each of a, the share of b that is larger, ties half."""
    ordered = b.sort().values
    right, left = (torch.searchsorted(ordered, a, right=side).double() for side in (True, False))
    return 1 - (right + left) / (2 * len(b))
