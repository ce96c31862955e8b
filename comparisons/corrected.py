"""The NLL by draws of the guide, corrected by annealed importance sampling (AIS) where both have judged the same data.

A guide that fits badly makes the NLL by K draws too high, and not by as much in every arm. AIS is nearer to the truth
and too dear for all test data. So K draws judge all of them, and what they give too much on the few data of the measure
`gaps` is taken off. For an answer whose cells have that measure:

    python -m flowvae.comparisons.corrected runs/questions/prior-flows-sprites-hour
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import tyro
from tqdm.auto import tqdm

from flowvae.comparisons import QUESTIONS
from flowvae.comparisons.statistics import paired_differences
from flowvae.errors import FlowvaeError
from flowvae.evaluation import measure_likelihoods
from flowvae.experiment import load

__all__ = ["corrected_nll"]


def corrected_nll(place: str | Path) -> pd.DataFrame:
    """One row a run of an answer: arm, seed, and in nats per datum nll, too_much and corrected = nll − too_much.

    Args:
        place: directory of the answer; its cells lie beside it.

    Raises:
        FlowvaeError: for a directory without an answer or its cells, or cells without the measure `gaps`.
    """
    place = Path(place)
    if not (place / "answer.json").is_file():
        raise FlowvaeError(f"{place}: no answer in it; name a directory that flowvae compare wrote.")
    rows = []
    for _, cell in tqdm(list(pd.read_csv(place / "table.csv").iterrows()), disable=None):
        run = load(place.parent / "cells" / cell["cell"])
        nll, ais = run.metric("nll"), run.metric("nll_ais")
        model, guide = run.pair
        few = run.data.test[: ais.protocol["rows"]].to(next(guide.parameters()).device)
        draws, seed = nll.protocol["draws"], nll.protocol["seed"]
        by_draws = -measure_likelihoods(model, guide, few, draws, seed, progress=False).log_evidence.double().mean()
        too_much = by_draws.item() - ais.value
        rows.append({"arm": cell["arm"], "seed": cell["seed"], "nll": nll.value, "too_much": too_much})
    return pd.DataFrame(rows).assign(corrected=lambda table: table["nll"] - table["too_much"])


@dataclass(frozen=True)
class _Arguments:
    """Print means over seeds and paired differences of the corrected NLL.

    Args:
        answer: directory of an answer.
    """

    answer: tyro.conf.Positional[Path]


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.corrected")
    torch.set_num_threads(1)
    table = corrected_nll(args.answer)
    protocol = json.loads((args.answer / "answer.json").read_text())
    pairs = QUESTIONS[protocol["question"]].contrasts(protocol["arms"])
    print(table.drop(columns="seed").groupby("arm", sort=False).mean().round(2).to_string())
    print(paired_differences(table, pairs, "corrected").round(3).to_string(index=False))
    print(
        f"{protocol['data']}, {protocol['split']}, seeds {protocol['seeds']}, K = {protocol['draws']}; nats per datum"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlowvaeError as error:
        sys.exit(f"{error}")
