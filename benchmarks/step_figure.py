"""Figure of training steps from the results of one or several runs of `training_step.py`.

python benchmarks/step_figure.py runs/bench/training_step.json --out docs/speed.png
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

TITLES = {
    "digits-128/maf-64/gaussian": "digits, MAF",
    "digits-128/nsf-64/gaussian": "digits, NSF",
    "mnist-100/maf-64/gaussian": "784 pixels, MAF",
}
# name in the results: label, colour
ARMS = {
    "by hand": ("PyTorch by hand", "0.7"),
    "fit": ("Pyro, none", "tab:blue"),
    "capture": ("capture", "tab:blue"),
    "inductor": ("compiled", "tab:blue"),
    "jax": ("JAX, jit", "tab:orange"),
    "jax scan": ("JAX, scan", "tab:orange"),
}


def figure(runs: list[list[dict[str, Any]]]) -> Any:
    """Plot milliseconds per step by case and arm: the median of the runs' medians, and their range."""
    cases = [result for result in runs[0] if result["case"] in TITLES]
    drawn, axes = plt.subplots(1, len(cases), figsize=(3.2 * len(cases), 2.6), squeeze=False, layout="constrained")
    for axis, result in zip(axes[0], cases, strict=True):
        arms = [arm for arm in ARMS if arm in result["arms"]]
        for place, arm in enumerate(arms):
            same = [one for run in runs for one in run if one["case"] == result["case"]]
            found = [one["arms"][arm]["median_ms"] for one in same]
            median = statistics.median(found)
            spread = [[median - min(found)], [max(found) - median]]
            axis.barh(place, median, color=ARMS[arm][1], xerr=spread, error_kw={"lw": 1})
            axis.text(max(found), place, f"  {median:.1f}", va="center", fontsize=8)
        labels = [ARMS[arm][0] for arm in arms] if axis is axes[0][0] else [""] * len(arms)
        axis.set_yticks(range(len(arms)), labels)
        axis.invert_yaxis()
        axis.margins(x=0.18)
        axis.set_title(TITLES[result["case"]], fontsize=10)
        axis.set_xlabel("milliseconds per step")
        axis.spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="results of one or several runs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figure([json.loads(path.read_text())["results"] for path in given.results]).savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
