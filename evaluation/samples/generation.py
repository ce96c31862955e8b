"""Quality and diversity of generated data, in the features of a classifier of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.progress import bar
from flowvae.core.seeds import derive
from flowvae.data import Dataset
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure
from flowvae.evaluation.samples.feature_distances import Estimate, compare_features, frechet_distance
from flowvae.evaluation.samples.features import Features
from flowvae.evaluation.samples.sampling import conditions, equal_sizes, generate, rows

if TYPE_CHECKING:
    import pandas as pd

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
    """Six measures of generated data against held-out data, and of training data against the same for reference.

    Args:
        generated: measure → estimate, for generated data.
        train: measure → estimate, for the same number of training data: the values of a generator with the exact
            distribution of the data, including the bias of FID at this n.
        of: kind of generated data, "draws" or "means".
        count: n, number of data, of generated data and of training data.
        neighbours: k of PRDC.
        seed: random seed of the generated data and the choice of data.
        features: description of the features.
        vectors: features of "data", "generated" and "train", shape (n, d) each.
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
        """Every measure and, as `…_of_train`, its value for training data; names for means end with `_of_means`."""
        settings = {
            "generated": self.of,
            "n": self.count,
            "k": self.neighbours,
            "seed": self.seed,
            "features": self.features,
            "se": "jackknife, data and generated data",
        }
        ending = "" if self.of == "draws" else f"_of_{self.of}"
        return [
            Metric(f"{name}{end}", value, se, UNITS[name], split, protocol | settings)
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
    """Compute FID, KID, precision, recall, density and coverage of data that a model generates.

    Args:
        model: Pyro model that generates data by `model(size=…)`.
        data: the data set that it was fitted to.
        features: features of the data set; see `load_features`.
        split: data for comparison, "valid" or "test".
        of: "draws" x ~ p(x | z) or "means" E[x | z]; see `generate`.
        count: n; None: the size of the smaller of split and train, at most 2000.
        neighbours: k of PRDC.
        seed: random seed of the generated data and the choice of data.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for a count above the size of the data, or too small for the neighbours.
    """
    count = equal_sizes(data, split, count)
    real = features.of(rows(data, split, count, seed))
    c = conditions(model, data, split, count, seed)
    generated = features.of(generate(model, count, of, seed, progress, c)).to(real.device)
    train = features.of(rows(data, "train", count, seed)).to(real.device)
    return Generation(
        compare_features(real, generated, neighbours, progress=progress),
        compare_features(real, train, neighbours, progress=progress),
        of,
        count,
        neighbours,
        seed,
        features.facts,
        {"data": real, "generated": generated, "train": train},
    )


def fid_at_sizes(
    real: Tensor,
    generated: Tensor,
    sizes: Sequence[int],
    repeats: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Compute the FID of random subsets of two sets of features, as a function of their size.

    Args:
        real: features of data, shape (N, d).
        generated: features of generated data, or of other data, shape (M, d).
        sizes: sizes n of the subsets.
        repeats: number of pairs of subsets for each size.
        seed: random seed of the subsets.
        progress: whether to show a progress bar.

    Returns:
        Columns n and fid, one row per pair of subsets.

    Raises:
        FlowvaeError: for a size below 2 or above the sizes of the sets.
    """
    import pandas as pd

    most = min(len(real), len(generated))
    if any(not 2 <= size <= most for size in sizes):
        raise FlowvaeError(f"sizes = {tuple(sizes)}: must be whole numbers from 2 to {most}.")
    found = []
    pairs = list(product(sizes, range(repeats)))
    for size, repeat in bar("FID of subsets", "pair", len(pairs), pairs, progress):
        generator = torch.Generator().manual_seed(derive(seed, "fid", size, repeat))
        a, b = (x[torch.randperm(len(x), generator=generator)[:size].to(x.device)] for x in (real, generated))
        found.append({"n": size, "fid": frechet_distance(a, b)})
    return pd.DataFrame(found)


def expected_fid(covariance: Tensor, count: int) -> float:
    """Compute E[FID] of two sets of n vectors from the same Gaussian to order 1/n: the bias where the truth is 0.

    With the eigenvalues λ of the covariance it is (1/n) (2 Σ_i λ_i + ½ Σ_i λ_i + Σ_ij λ_i λ_j / (λ_i + λ_j)). The first
    term comes from the means, the others from the second-order expansion of the distance in the covariances. For Σ = I
    it is d (d + 5) / 2n.

    Args:
        covariance: Σ, shape (d, d).
        count: n.
    """
    values = torch.linalg.eigvalsh(covariance.double()).clamp_min(1e-12)  # avoids 0 / 0, which stands for 0
    pairs = values.unsqueeze(0) * values.unsqueeze(1) / (values.unsqueeze(0) + values.unsqueeze(1))
    return float(2.5 * values.sum() + pairs.sum()) / count


@measure("generation", held_out=True, figures=("fid",))
def _samples(context: EvaluationContext) -> MeasureResult:
    """FID, KID, precision, recall, density and coverage, with the values of training data for reference."""
    from flowvae.evaluation.figures.generation_plots import plot_fid_bias
    from flowvae.evaluation.samples.features import load_features

    # features belong to the data, not to the model, so their seed is the same for every run
    features = load_features(context.data, seed=0, progress=context.progress)
    result = measure_generation(context.model, context.data, features, split=context.split, **context.options)
    metrics = result.metrics(context.split, {**context.protocol, "seed": context.seed})

    def bias() -> Any:
        sizes = sorted({max(2, result.count // part) for part in (8, 4, 2, 1)})
        others = dict(result.vectors)
        data = others.pop("data")
        how: dict[str, Any] = {"seed": context.seed, "progress": context.progress}
        tables = {name: fid_at_sizes(data, other, sizes, **how) for name, other in others.items()}
        return plot_fid_bias(tables, data.T.cov())

    return MeasureResult(metrics, {"fid": bias})
