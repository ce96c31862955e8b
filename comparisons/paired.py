"""Arms against seeds: run what is missing, and compare in pairs that share a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from scipy.stats import t as student

from flowvae.errors import FlowvaeError
from flowvae.experiment import Experiment, Run, load

__all__ = ["paired_differences", "run_arms"]


def run_arms(arms: Mapping[str, Experiment], seeds: range, directory: Path, progress: bool = True) -> pd.DataFrame:
    """Run every arm with every seed, one directory each, and gather the measures.

    A run that is there and whole is loaded, one that was interrupted goes on.

    Args:
        arms: experiments by name; their own seed is replaced.
        seeds: decide split, initial weights, order of batches and noise; the same in every arm.
        directory: where the runs go, `directory/arm/seed-N`.
        progress: whether to show progress bars.

    Returns:
        One row a run: arm, seed, parameters, epochs, seconds per epoch, and every test measure by its name.
    """
    rows = []
    for name, experiment in arms.items():
        for seed in seeds:
            run = _finished(replace(experiment, seed=seed), directory / name / f"seed-{seed}", progress)
            history = run.history
            rows.append(
                {
                    "arm": name,
                    "seed": seed,
                    "parameters": run.parameters,
                    "epochs": len(history),
                    "seconds_per_epoch": history["seconds"].median(),
                    **{metric.name: metric.value for metric in run.metrics if metric.split == "test"},
                }
            )
    return pd.DataFrame(rows)


def _finished(experiment: Experiment, directory: Path, progress: bool) -> Run:
    if (directory / "metrics.json").is_file():
        run = load(directory)
        if run.experiment != experiment:
            raise FlowvaeError(f"{directory}: holds another experiment; name another directory.")
        return run
    return experiment.run(directory, resume=(directory / "experiment.yaml").is_file(), progress=progress)


def paired_differences(table: pd.DataFrame, baseline: str, measure: str) -> pd.DataFrame:
    """Mean difference of every arm to the baseline over the seeds that they share.

    Args:
        table: what `run_arms` gave.
        baseline: name of the arm to compare with.
        measure: column to compare.

    Returns:
        One row an arm: mean, standard error over seeds, 95 % t interval, number of seeds.

    Raises:
        FlowvaeError: for an unknown baseline, or fewer than two seeds.
    """
    values = table.pivot(index="seed", columns="arm", values=measure)
    if baseline not in values:
        raise FlowvaeError(f"baseline {baseline!r}: not an arm; arms are {', '.join(values)}.")
    rows = []
    for arm in [name for name in dict.fromkeys(table["arm"]) if name != baseline]:
        differences = (values[arm] - values[baseline]).dropna()
        count = len(differences)
        if count < 2:
            raise FlowvaeError(f"{arm}: {count} seed(s); a standard error over seeds needs two or more.")
        se = differences.std() / math.sqrt(count)
        reach = student.ppf(0.975, count - 1) * se
        mean = differences.mean()
        rows.append(
            {
                "arm": arm,
                "difference": mean,
                "se": se,
                "low": mean - reach,
                "high": mean + reach,
                "seeds": count,
            }
        )
    return pd.DataFrame(rows)
