"""Distillation of an autoregressive prior into priors with fast draws, at several sizes of the code.

For each size D, a VAE is trained with a MAF prior, the teacher, whose draws take D passes per transform. Students are
fitted to it without data: an inverse autoregressive flow and affine couplings, by the reverse divergence KL(s‖t), the
forward one KL(t‖s), or both. Both divergences of every student are then estimated from new draws. What theory predicts:
the reverse divergence seeks modes, so its students have a small KL(s‖t) and a larger KL(t‖s); the forward one covers
the teacher. The number of passes for a student's draw does not grow with D.

    python -m flowvae.comparisons.studies.distillation --out runs/distillation

The same command resumes an interrupted study.

References:
    van den Oord et al. (2018), "Parallel WaveNet: Fast High-Fidelity Speech Synthesis".
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Size

from flowvae.comparisons.engine.bases import base_on
from flowvae.core.files import as_path, atomic_write, write_table
from flowvae.core.script import run_script
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation import measure_sampling_time, write_figure
from flowvae.evaluation.figures.drawing import BLUE, GREY, RED, new_figure
from flowvae.experiments.directory import make_directory
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.experiments.stages import DIRECTIONS, SecondStage
from flowvae.experiments.train import train
from flowvae.flows import IAF, MAF, FlowSpec, RealNVP
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.inference import Cosine, Training

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["STUDENTS", "divergences", "plot_students", "row_of"]

STUDENTS: dict[str, tuple[FlowSpec, tuple[str, ...]]] = {
    # the forward divergence of an inverse autoregressive flow takes D passes for each density
    "iaf": (IAF(3, (64, 64)), ("reverse",)),
    "realnvp": (RealNVP(8, (64, 64)), DIRECTIONS),
}
TEACHER = MAF(3, (64, 64))
DRAWS = 10_000
COLUMNS = ("reverse_kl", "reverse_kl_se", "forward_kl", "forward_kl_se", "seconds", "times_faster", "nll")


@torch.no_grad()
def divergences(student: Run, teacher: Run, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Estimate KL(s‖t) and KL(t‖s) in nats, with standard errors over the draws."""
    s, t = (run.pair.model.eval().prior for run in (student, teacher))
    found: dict[str, float] = {}
    for name, one, other in (("reverse_kl", s, t), ("forward_kl", t, s)):
        with seeded(derive(seed, name)):
            z = to_pyro(one()).sample(Size((draws,)))
        ratio = one().log_prob(z) - other().log_prob(z)
        found |= {name: ratio.mean().item(), f"{name}_se": (ratio.std() / draws**0.5).item()}
    return found


def row_of(
    base: Experiment, latent: int, student: str, direction: str, out: Path, training: Training
) -> dict[str, Any]:
    """Train the teacher for one size of the code, or resume it, distil one student, and measure both.

    Returns:
        One row: latent, student, direction, seed, and the columns of `COLUMNS`; `seconds` are CPU seconds for 10,000
        codes, and `times_faster` is the teacher's time divided by the student's.
    """
    taught = replace(base, latent=latent, prior=TEACHER)
    how: dict[str, Any] = {"draws": 200, "figures": False, "progress": False}
    place = out / f"maf-{latent}-{base.seed}"
    teacher = train(taught, place, resume=place.exists(), **how)
    stage = SecondStage(STUDENTS[student][0], training, distill=direction)
    place = out / f"{student}-{direction}-{latent}-{base.seed}"
    more: dict[str, Any] = {"resume": True} if place.exists() else {"first_stage": teacher.directory}
    run = train(replace(taught, second_stage=stage), place, **more, **how)
    seconds, slow = (measure_sampling_time(each.pair.model) for each in (run, teacher))
    return {
        "latent": latent,
        "student": student,
        "direction": direction,
        "seed": base.seed,
        **divergences(run, teacher),
        "seconds": seconds,
        "times_faster": slow / seconds,
        "nll": run.metric("nll").value,
        "teacher_nll": teacher.metric("nll").value,
    }


def plot_students(table: pd.DataFrame, title: str) -> Figure:
    """Plot both divergences of every student and the speed-up of its draws against the size of the code."""
    figure = new_figure((9.6, 3.2))
    panels = figure.subplots(1, 3)
    styles = {"reverse": (BLUE, "-"), "forward": (RED, "--"), "both": (GREY, ":")}
    sizes = sorted(table["latent"].unique())
    columns = (("reverse_kl", "KL(s‖t), nats"), ("forward_kl", "KL(t‖s), nats"), ("times_faster", "times faster draws"))
    for ax, (column, label) in zip(panels, columns, strict=True):
        for (student, direction), rows in table.groupby(["student", "direction"], sort=False):
            colour, style = styles[str(direction)]
            means = rows.groupby("latent")[column].mean()
            marker = "o" if student == "iaf" else "s"
            line = f"{student}, {direction}"
            ax.plot(means.index, means, color=colour, linestyle=style, marker=marker, markersize=4, label=line)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set(xlabel="size of the code, D", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_yscale("log")
    panels[0].legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


@dataclass(frozen=True)
class _Arguments:
    """Distil a MAF prior into flows that draw fast.

    Args:
        out: directory of the runs, the table (CSV and JSON) and the figure.
        data: data set whose base experiment is used.
        path: file of the data set, if it is read from one.
        latent: sizes of the code.
        seeds: number of seeds.
        epochs: upper limit of the teacher's epochs.
        student_steps: number of steps of each student, with 256 draws per step.
    """

    out: Path
    data: str = "digits"
    path: Path | None = None
    latent: tuple[int, ...] = (8, 32, 64)
    seeds: int = 1
    epochs: int = 300
    student_steps: int = 6000


def main(argv: list[str] | None = None) -> int:
    """Run the study from the command line."""
    import pandas as pd

    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.studies.distillation")
    torch.set_num_threads(1)
    out = as_path(args.out)
    make_directory(out)
    base = base_on(args.data, args.path)
    base = replace(base, inference=replace(base.inference, epochs=min(args.epochs, base.inference.epochs)))
    steps = Training(batch_size=256).steps_per_epoch(len(base.data.load(0).train))
    epochs = max(1, args.student_steps // steps)
    training = Training(epochs=epochs, batch_size=256, learning_rate=3e-3, schedule=Cosine(), patience=epochs)
    rows = []
    for latent in args.latent:
        for student, (_, directions) in STUDENTS.items():
            for direction in directions:
                for seed in range(args.seeds):
                    rows.append(row_of(replace(base, seed=seed), latent, student, direction, out, training))
                    print(rows[-1], file=sys.stderr)
    table = pd.DataFrame(rows)
    write_table(out / "distillation.csv", table)
    with atomic_write(out / "distillation.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    write_figure(plot_students(table, f"{args.data}: students of a MAF prior"), out / "distillation.png")
    print(table.to_string(index=False, float_format="%.3f"))
    print("divergences in nats from 10,000 draws; CPU seconds for 10,000 codes on one thread")
    return 0


if __name__ == "__main__":
    run_script(main)
