"""The demonstration: a VAE on digits with N(0, I) and a Gaussian guide, and one with flows as prior and guide."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from flowvae.core.registry import name_of
from flowvae.core.script import run_script
from flowvae.evaluation import Metric
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.flows import IAF, MAF
from flowvae.guides import FlowGuide

__all__ = ["main", "row"]


def arms() -> dict[str, Experiment]:
    """Return the two experiments of the demonstration."""
    base = Experiment()
    return {"normal-gaussian": base, "maf-iaf": replace(base, prior=MAF(), guide=FlowGuide(IAF()))}


def row(run: Run) -> dict[str, str]:
    """Return a run's row of the table."""

    def text(metric: Metric) -> str:
        return f"{metric.value:.2f}" + ("" if metric.se is None else f" ± {metric.se:.2f}")

    nll = run.metric("nll")
    return {
        "prior": name_of(run.experiment.prior),
        "guide": name_of(run.experiment.guide),
        "parameters": f"{run.parameters:,}",
        "test ELBO, nats": text(run.metric("elbo")),
        f"test NLL, nats (K = {nll.protocol['draws']})": text(nll),
        "effective draws": f"{run.metric('effective_draws').value:.0f}",
        "s/epoch": f"{run.history['seconds'].median():.3f}",
        "epochs": str(len(run.history)),
    }


def main() -> int:
    """Train both, and print the table and the folders of the figures."""
    import pandas as pd

    started = time.perf_counter()
    torch.set_num_threads(1)  # fastest for networks this small, also on a busy machine
    runs = []
    for name, experiment in arms().items():
        directory = free(Path("runs") / f"demo-{name}")
        print(f"{directory}: prior {name_of(experiment.prior)}, guide {name_of(experiment.guide)}", flush=True)
        runs.append(experiment.run(directory))
    table = pd.DataFrame([row(run) for run in runs])
    identity = runs[0].data.identity
    print(f"\n{table.to_string(index=False)}\n")
    print(f"Data: {identity.name}, {identity.split}; seed {runs[0].experiment.seed}; ± is over test images.")
    for run in runs:
        if (caution := run.metric("nll").caution) is not None:
            print(f"NLL of {name_of(run.experiment.prior)}: {caution}.")
    print("One seed does not show which is better: README.md has paired differences over seeds.")
    print("Figures:", ", ".join(f"{run.directory}/figures" for run in runs))
    print(f"{time.perf_counter() - started:.0f} s in all.")
    return 0


def free(directory: Path) -> Path:
    """Return the directory, or the first of directory-2, directory-3, … that does not exist."""
    number, candidate = 1, directory
    while candidate.exists():
        number += 1
        candidate = directory.with_name(f"{directory.name}-{number}")
    return candidate


if __name__ == "__main__":
    run_script(main)
