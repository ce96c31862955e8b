"""Densities of two moons fitted by all flow families: a figure, and KL divergences from the true density.

Every family is fitted by maximum likelihood to the same data, as a model x = T(u). What theory predicts: families that
are affine in each dimension (linear, one radial or planar layer) cannot separate the moons. Affine coupling and
autoregression leave a bridge between them, splines and ordinary differential equations the thinnest one. Families with
cheap draws and expensive densities are inverted, so that all are fitted in the same way. Householder flows are left out
because they do not change N(0, I).

    python -m flowvae.comparisons.studies.densities --out runs/densities
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import tyro

from flowvae.core.errors import FlowvaeError, ImproperDensityWarning
from flowvae.core.files import as_path, write_table
from flowvae.core.registry import name_of
from flowvae.core.script import run_script
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, Moons, preview, to_tensor
from flowvae.evaluation import measure_flow, write_figure
from flowvae.evaluation.figures.drawing import BLUE, new_figure, on_grid
from flowvae.evaluation.metric import mean_se
from flowvae.experiments.directory import make_directory
from flowvae.flows import (
    BPF,
    CNF,
    GF,
    MAF,
    NAF,
    NICE,
    NSF,
    SOSPF,
    UNAF,
    CouplingNSF,
    FlowSpec,
    Inverse,
    Linear,
    Planar,
    Radial,
    RealNVP,
    Residual,
    Sylvester,
)
from flowvae.guides import NoGuide
from flowvae.inference import Training, fit
from flowvae.models import FlowModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FAMILIES", "fit_family", "plot_grid"]

WIDE = (64, 64)
FAMILIES: dict[str, FlowSpec] = {
    name_of(flow): flow
    for flow in (
        Linear(),
        Inverse(Planar(transforms=16)),
        Radial(transforms=16),
        Inverse(Sylvester(transforms=8)),
        NICE(8, WIDE),
        RealNVP(8, WIDE),
        MAF(4, WIDE),
        Inverse(MAF(4, WIDE)),
        Residual(transforms=6, hidden_features=WIDE),
        CouplingNSF(4, WIDE, bins=8),
        NSF(4, WIDE, bins=8),
        BPF(2, WIDE),
        NAF(2, WIDE),
        UNAF(2, WIDE),
        SOSPF(2, WIDE),
        GF(transforms=6),
        CNF(hidden_features=WIDE),
    )
}
SETTINGS = Training(epochs=60, batch_size=256, learning_rate=3e-3, patience=60, validation_draws=1, device="cpu")
WINDOW = (-2.0, 3.0, -1.8, 2.3)  # left, right, lower, upper
NODES = 161


def fit_family(flow: FlowSpec, data: Dataset, seed: int = 0, settings: Training = SETTINGS) -> FlowModel:
    """Fit a family as a model of 2-D data; return it with the best weights on the validation data."""
    with seeded(derive(seed, "flow")), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImproperDensityWarning)
        model = FlowModel(flow.transform(data.features), data.features)
    fit(model, NoGuide(), data.train, data.valid, settings, seed=seed, progress=sys.stderr.isatty())
    return model


@torch.no_grad()
def plot_grid(models: dict[str, FlowModel], data: Dataset, gaps: dict[str, float]) -> Figure:
    """Plot the data and the fitted densities, with KL divergences from the true density in nats as titles."""
    columns = 6
    rows = -(-(len(models) + 1) // columns)
    figure = new_figure((2.1 * columns, 2.0 * rows))
    left, right, lower, upper = WINDOW
    across, up = torch.linspace(left, right, NODES), torch.linspace(lower, upper, NODES)
    panels = figure.subplots(rows, columns).ravel()
    panels[0].scatter(*preview(data.test).T, s=1, color=BLUE, linewidths=0)
    panels[0].set(title=f"{data.name}: test data", xlim=(left, right), ylim=(lower, upper), aspect="equal")
    for ax, (name, model) in zip(panels[1:], models.items(), strict=False):
        density = np.nan_to_num(np.exp(on_grid(model.flow().log_prob, across, up)))
        ax.imshow(np.sqrt(density), extent=WINDOW, origin="lower", cmap="Greys")
        ax.set(title=f"{name}: +{gaps[name]:.2f}")
    for ax in panels:
        ax.set(xticks=[], yticks=[])
        ax.title.set_fontsize(8)
    for ax in panels[len(models) + 1 :]:
        ax.remove()
    return figure


@dataclass(frozen=True)
class _Arguments:
    """Fit every flow family to two moons.

    Args:
        out: directory of the picture and the table.
        seed: seed of the data, the initial weights and the order of batches.
    """

    out: Path
    seed: int = 0


def main(argv: list[str] | None = None) -> int:
    """Run the study from the command line."""
    import pandas as pd

    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.studies.densities")
    torch.set_num_threads(1)
    out = as_path(args.out)
    make_directory(out)
    data = Moons().load(args.seed)
    if data.log_evidence is None:
        raise FlowvaeError(f"{data.name}: its true density is not known.")
    test = to_tensor(data.test, data.name)
    truth = data.log_evidence(test)
    models, rows = {}, []
    for name, flow in FAMILIES.items():
        models[name] = fit_family(flow, data, args.seed)
        mean, se = mean_se(truth - measure_flow(models[name], NoGuide(), test).log_likelihood)
        rows.append(
            {
                "family": name,
                "parameters": sum(p.numel() for p in models[name].parameters()),
                "nats_above_truth": mean,
                "se": se,
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    write_table(out / "densities.csv", table)
    figure = plot_grid(models, data, dict(zip(table["family"], table["nats_above_truth"], strict=True)))
    write_figure(figure, out / "densities.png")
    print(table.to_string(index=False, float_format="%.3f"))
    print(f"{data.name}, {data.identity.split}; seed {args.seed}; se over test data, paired with the true density")
    return 0


if __name__ == "__main__":
    run_script(main)
