"""How good and how varied generated data are, in the features of a classifier of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive
from flowvae.data import Dataset
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.samples.feature_distances import Estimate, compare_features, frechet_distance
from flowvae.evaluation.samples.features import Features
from flowvae.evaluation.samples.sampling import equal_sizes, generate, rows

__all__ = ["Generation", "expected_fid", "fid_at_sizes", "measure_generation"]

UNITS = {
    "fid": "variances of a feature",
    "kid": "squared MMD",
    "precision": "share of generated data",
    "recall": "share of data",
    "density": "neighbourhoods / k",
    "coverage": "share of data",
}


@dataclass(frozen=True)
class Generation:
    """Six measures of a generator against data that were not fitted, and of the training data in its place.

    Args:
        generated: measure → estimate, for generated data.
        train: measure → estimate, for as many training data: what a generator can reach that draws from the law of
            the data, and what FID's bias is at this n.
        of: "draws" or "means", what was generated.
        count: n, of data, generated data and training data each.
        neighbours: k of PRDC.
        seed: of the generated data and of the choice among the data.
        features: what the features are.
        vectors: the features of "data", "generated" and "train", shape (n, d) each.
    """

    generated: dict[str, Estimate]
    train: dict[str, Estimate]
    of: str
    count: int
    neighbours: int
    seed: int
    features: dict[str, Any]
    vectors: dict[str, Tensor] = field(repr=False, compare=False)

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Every measure and, as `…_of_train`, its value for training data; those of means are named `…_of_means`."""
        how = {
            "generated": self.of,
            "n": self.count,
            "k": self.neighbours,
            "seed": self.seed,
            "features": self.features,
            "se": "jackknife, data and generated data",
        }
        ending = "" if self.of == "draws" else f"_of_{self.of}"
        return [
            Metric(f"{name}{end}", value, se, UNITS[name], split, protocol | how)
            for end, estimates in ((ending, self.generated), ("_of_train", self.train))
            for name, (value, se) in estimates.items()
        ]


@torch.no_grad()
def measure_generation(
    model: Callable[..., Any],
    data: Dataset,
    features: Features,
    *,
    split: str = "test",
    of: str = "draws",
    count: int | None = None,
    neighbours: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> Generation:
    """FID, KID, precision, recall, density and coverage of what a model generates.

    Args:
        model: Pyro model that generates data by `model(size=…)`.
        data: the data set that it was fitted to.
        features: of the data set, such as `load_features` gives.
        split: what generated data are held against, "valid" or "test".
        of: "draws" x ~ p(x | z), or "means" E[x | z], see `generate`.
        count: n; None: as many as there are in the smaller of split and train, 2000 at most.
        neighbours: k of PRDC.
        seed: decides what is generated and which data are taken.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for a count that the data do not have, or too small for the neighbours.
    """
    count = equal_sizes(data, split, count)
    real = features.of(rows(data, split, count, seed))
    generated = features.of(generate(model, count, of, seed, progress)).to(real.device)
    train = features.of(rows(data, "train", count, seed)).to(real.device)
    return Generation(
        compare_features(real, generated, neighbours),
        compare_features(real, train, neighbours),
        of,
        count,
        neighbours,
        seed,
        features.facts,
        {"data": real, "generated": generated, "train": train},
    )


def fid_at_sizes(
    real: Tensor, generated: Tensor, sizes: Sequence[int], repeats: int = 10, seed: int = 0
) -> pd.DataFrame:
    """FID of random parts of two sets of features, to see how it depends on their size.

    Args:
        real: features of data, shape (N, d).
        generated: features of generated data, or of other data, shape (M, d).
        sizes: n of the parts.
        repeats: how many pairs of parts are drawn of each size.
        seed: decides the parts.

    Returns:
        Columns n and fid, one row a pair of parts.

    Raises:
        FlowvaeError: for a size below 2 or above those of the sets.
    """
    most = min(len(real), len(generated))
    if any(not 2 <= size <= most for size in sizes):
        raise FlowvaeError(f"sizes = {tuple(sizes)}: must be whole numbers from 2 to {most}.")
    found = []
    for size in sizes:
        for repeat in range(repeats):
            generator = torch.Generator().manual_seed(derive(seed, "fid", size, repeat))
            a, b = (x[torch.randperm(len(x), generator=generator)[:size].to(x.device)] for x in (real, generated))
            found.append({"n": size, "fid": frechet_distance(a, b)})
    return pd.DataFrame(found)


def expected_fid(covariance: Tensor, count: int) -> float:
    """E FID of two sets of n Gaussian vectors of the same law, to order 1/n: its bias where the truth is 0.

    With the eigenvalues λ of the covariance, (1/n) (2 Σ_i λ_i + ½ Σ_i λ_i + Σ_ij λ_i λ_j / (λ_i + λ_j)): the first
    term comes from the means, the others from the second-order expansion of the distance in the covariances. For
    Σ = I it is d (d + 5) / 2n.

    Args:
        covariance: Σ, shape (d, d).
        count: n.
    """
    values = torch.linalg.eigvalsh(covariance.double()).clamp_min(1e-12)  # 0 / 0 stands for 0
    pairs = values.unsqueeze(0) * values.unsqueeze(1) / (values.unsqueeze(0) + values.unsqueeze(1))
    return float(2.5 * values.sum() + pairs.sum()) / count
