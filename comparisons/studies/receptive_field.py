"""Information in the code as a function of the receptive field of an autoregressive decoder.

The decoder is a PixelCNN that reads the features of the decoder network and the pixels within a radius r; the prior is
an autoregressive flow, as in the variational lossy autoencoder. All arms have the same depth. What theory predicts:
information in the code costs its KL, while information that the pixels in the field give is free, so the code loses
local information as r grows. If the field is the whole image, a flexible decoder needs no code: KL, mutual information
and active units fall to zero (posterior collapse). Controls: r = 0, whose pixels are independent given the code, and
the likelihood of the data set itself (binomial or Bernoulli), without a network over pixels.

    python -m flowvae.comparisons.studies.receptive_field --out runs/receptive-field

The same command resumes an interrupted study.

References:
    Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever & Abbeel (2017), "Variational Lossy Autoencoder".
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro

from flowvae.comparisons.engine.bases import base_on
from flowvae.core.errors import FlowvaeError
from flowvae.core.files import as_path, atomic_write, write_table
from flowvae.core.script import run_script
from flowvae.data import Dataset
from flowvae.evaluation import write_figure
from flowvae.evaluation.figures.drawing import BLUE, GREY, RED, new_figure
from flowvae.experiments.directory import make_directory
from flowvae.experiments.experiment import Experiment
from flowvae.flows import MAF
from flowvae.inference import Training
from flowvae.models import PixelCNNLikelihood

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["CONTROL", "arms_of", "plot_rates", "row_of", "summary"]

CONTROL = "no network"
MEASURES = ("activity", "surgery")
# metric, column, factor
COLUMNS = (
    ("kl", "kl_bits", 1 / math.log(2)),
    ("mutual_information", "information_bits", 1 / math.log(2)),
    ("log_data", "most_information_bits", 1 / math.log(2)),
    ("active_units", "active_units", 1.0),
    ("elbo", "elbo_nats", 1.0),
    ("nll", "nll_nats", 1.0),
    ("reconstruction", "reconstruction_nats", 1.0),
)


def arms_of(base: Experiment, data: Dataset, fields: tuple[int, ...], **network: int) -> dict[str, Experiment]:
    """Return the control and an experiment for each receptive field, "r = 0", "r = 1", ….

    Args:
        base: networks, latent size, data and training; its prior becomes an autoregressive flow.
        data: its data, images of bounded counts.
        fields: radii in pixels; 0: no receptive field.
        network: settings of `PixelCNNLikelihood` for the causal network, the same in all arms.

    Raises:
        FlowvaeError: for data that are not such images or whose likelihood is not a setting, and a radius that the
            network cannot reach.
    """
    total = data.likelihood.largest
    if total is None or len(data.shape) != 3 or not hasattr(base.data, "likelihood"):
        raise FlowvaeError(
            f"{data.name}: {data.likelihood}, shape {tuple(data.shape)}; the study needs images (C, H, W) of bounded "
            "counts whose likelihood is a setting of the data, such as digits or static-mnist."
        )
    base = replace(base, prior=MAF())
    arms = {CONTROL: base}
    for radius in fields:
        likelihood = PixelCNNLikelihood(total, field=radius, **network)
        arms[f"r = {radius}"] = replace(base, data=replace(base.data, likelihood=likelihood))  # type: ignore[type-var]
    return arms


def row_of(arm: str, experiment: Experiment, directory: Path, draws: int) -> dict[str, Any]:
    """Train one arm with one seed, or resume it, and return its measures.

    Returns:
        One row: arm, seed, radius, pixels of the field, parameters, epochs, and the columns of `COLUMNS`, measured on
        the test images except for the mutual information and its upper limit log N, which refer to training codes.
    """
    run = experiment.run(directory, resume=directory.exists(), draws=draws, figures=False, progress=False)
    missing = {name for name, _, _ in COLUMNS} - {metric.name for metric in run.metrics}
    if missing:
        run.evaluate(measures=MEASURES, draws=draws, progress=False)
    found = {metric.name: metric.value for metric in run.metrics}
    likelihood = run.data.likelihood
    return {
        "arm": arm,
        "seed": experiment.seed,
        "radius": getattr(likelihood, "radius", None),
        "pixels": getattr(likelihood, "receptive_field", 0),
        "parameters": sum(p.numel() for part in run.pair for p in part.parameters()),
        "epochs": len(run.history),
        **{column: found[name] * factor for name, column, factor in COLUMNS},
    }


def plot_rates(table: pd.DataFrame, title: str) -> Figure:
    """Plot bits in the code, active units and NLL against the radius, with seeds as points and means as lines."""
    figure = new_figure((9.6, 3.0))
    panels = figure.subplots(1, 3)
    fields = table[table["radius"].notna()]
    control = table[table["radius"].isna()]
    radii = sorted(fields["radius"].unique())
    lines = (
        (panels[0], "kl_bits", BLUE, "mean KL(q‖p)"),
        (panels[0], "information_bits", RED, "mutual information"),
        (panels[1], "active_units", BLUE, "active units"),
        (panels[2], "nll_nats", BLUE, "NLL"),
    )
    for ax, column, colour, label in lines:
        ax.plot(radii, [fields.loc[fields["radius"] == r, column].mean() for r in radii], color=colour, label=label)
        ax.scatter(fields["radius"], fields[column], s=9, color=colour, linewidths=0)
        if len(control):
            ax.axhline(control[column].mean(), color=colour, linestyle=":", linewidth=1)
    panels[0].axhline(table["most_information_bits"].max(), color=GREY, linewidth=1, label="log N, its largest value")
    for ax, label in zip(panels, ("bits per image", "units", "nats per image"), strict=True):
        ax.set(xlabel="radius of the receptive field, pixels", ylabel=label, xticks=radii)
        ax.spines[["top", "right"]].set_visible(False)
    for ax, name in zip(panels, ("in the code", "active units", "test NLL"), strict=True):
        ax.set_title(name, fontsize=9)
    for ax in panels[:2]:
        ax.set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{title}; dotted: no network over pixels", fontsize=9)
    return figure


@dataclass(frozen=True)
class _Arguments:
    """Measure the information in the code against the receptive field of a PixelCNN decoder.

    Args:
        out: directory of the runs, the table (CSV and JSON) and the figure.
        data: data set whose base experiment is used: digits or static-mnist.
        data_path: file of the data; by default that of the data set.
        fields: radii in pixels; 0: no receptive field.
        layers: number of layers of the causal network.
        kernel: kernel size of its layers; 1 + (kernel − 1) / 2 · layers is the largest radius.
        channels: number of channels of its layers.
        seeds: number of seeds.
        epochs: number of epochs of a training.
        batch_size: batch size of a training.
        learning_rate: initial learning rate of a training.
        draws: K of the NLL.
    """

    out: Path
    data: str = "digits"
    data_path: Path | None = None
    fields: tuple[int, ...] = (0, 1, 3, 5, 9)
    layers: int = 4
    kernel: int = 5
    channels: int = 16
    seeds: int = 3
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 3e-3
    draws: int = 200


def main(argv: list[str] | None = None) -> int:
    """Run the study from the command line, and write the table after each run."""
    import pandas as pd

    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.studies.receptive_field")
    torch.set_num_threads(1)
    base = base_on(args.data, args.data_path)
    how = Training(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        kl_warmup=args.epochs // 3,  # without warm-up even arms that need the code may collapse early
        patience=args.epochs,  # no early stopping: the best epoch is kept
        validation_draws=base.inference.validation_draws,
    )
    base = replace(base, inference=how)
    data = base.data.load(0)
    network = {"layers": args.layers, "kernel": args.kernel, "channels": args.channels}
    arms = arms_of(base, data, args.fields, **network)
    out = as_path(args.out)
    make_directory(out)
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):  # all arms of a seed first, so that the table is balanced
        for arm, experiment in arms.items():
            place = out / "runs" / f"{arm.replace(' ', '').replace('=', '-')}-seed-{seed}"
            rows.append(row_of(arm, replace(experiment, seed=seed), place, args.draws))
            print(rows[-1], file=sys.stderr, flush=True)
            table = pd.DataFrame(rows)
            write_table(out / "receptive_field.csv", table)
            with atomic_write(out / "receptive_field.json") as temporary:
                temporary.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    write_figure(plot_rates(table, f"{data.name}, {args.seeds} seed(s)"), out / "receptive_field.png")
    print(summary(table).to_string(float_format="%.2f"))
    print(
        f"{data.name}: means over {args.seeds} seed(s), {len(data.test)} test images; NLL with K = {args.draws}. The "
        f"mean KL bounds the mutual information, whose estimate from {len(data.train)} training codes is at most log N."
    )
    return 0


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Compute the means over seeds of each arm."""
    columns = ["pixels", "parameters", "epochs", *(column for _, column, _ in COLUMNS)]
    return table.groupby("arm", sort=False)[columns].mean()


if __name__ == "__main__":
    run_script(main)
