"""The importance-sampling NLL, corrected by annealed importance sampling (AIS).

The NLL from K draws of the guide is biased upwards. The bias grows with the gap of the guide, so it differs between
arms. AIS has a smaller bias but is too expensive for all test data. The corrected NLL is the NLL of all test data from
K draws, minus the difference of the two estimates on the few data points of the measure `gaps`. For an answer whose
cells have this measure:

    python -m flowvae.comparisons.engine.corrected_nll runs/questions/prior-flows-sprites-hour
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro

from flowvae.comparisons.engine.names import check_name, inside
from flowvae.comparisons.engine.protocol import check_table, protocol_of
from flowvae.comparisons.engine.statistics import paired_differences
from flowvae.core.errors import FlowvaeError, one_line
from flowvae.core.files import as_path
from flowvae.core.progress import bar
from flowvae.core.script import run_script
from flowvae.data import batch_of
from flowvae.evaluation import measure_likelihoods
from flowvae.experiments.run import load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["corrected_nll"]


def corrected_nll(place: str | Path) -> pd.DataFrame:
    """Compute nll, too_much (its bias) and corrected = nll − too_much in nats per data point, one row per run.

    Args:
        place: directory of the answer, beside its cells.

    Raises:
        FlowvaeError: for a directory without an answer or cells, a damaged answer, cells without the measure `gaps`, or
            cells that have been measured with other draws since.
    """
    import pandas as pd

    place = _place(place)
    cells, answered = place.parent / "cells", _read_protocol(place)["draws"]
    rows = []
    table = _table(place)
    for _, cell in bar("corrected NLL", "cell", len(table), table.iterrows()):
        run = load(inside(cells, cells / check_name("cell", cell["cell"])))
        nll, ais = run.metric("nll"), run.metric("nll_ais")
        if nll.protocol["draws"] != answered:
            raise FlowvaeError(
                f"{run.name}: its NLL is from K = {nll.protocol['draws']} draws, in the answer from K = {answered}; "
                "run the comparison again."
            )
        model, guide = run.pair
        few = batch_of(run.data, run.experiment.condition, "test")[torch.arange(ais.protocol["rows"])]
        few = few.to(next(guide.parameters()).device)
        draws, seed = nll.protocol["draws"], nll.protocol["seed"]
        by_draws = -measure_likelihoods(model, guide, few, draws, seed, progress=False).log_evidence.double().mean()
        too_much = by_draws.item() - ais.value
        estimates = {"nll": nll.value, "too_much": too_much}
        protocol = protocol_of(run.data, run.experiment.condition)
        rows.append({"arm": cell["arm"], "seed": cell["seed"], **estimates, **protocol})
    return pd.DataFrame(rows).assign(corrected=lambda table: table["nll"] - table["too_much"])


def _place(directory: str | Path) -> Path:
    place = as_path(directory)
    if not (place / "answer.json").is_file():
        raise FlowvaeError(f"{place}: no answer in it; name a directory written by flowvae compare.")
    return place


def _read_protocol(place: Path) -> dict[str, Any]:
    """Read data, split, seeds, draws and primary measure of an answer."""
    try:
        stored = json.loads((place / "answer.json").read_text(encoding="utf-8"))
        protocol = {name: stored[name] for name in ("data", "split", "seeds", "draws")}
        return {**protocol, "measure": check_name("measure", stored["measure"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FlowvaeError) as error:
        raise FlowvaeError(f"{place / 'answer.json'}: damaged ({one_line(error)}); run the comparison again.") from None


def _table(place: Path) -> pd.DataFrame:
    """Read arm, seed and cell of every run of an answer."""
    import pandas as pd

    try:
        return pd.read_csv(place / "table.csv", dtype={"arm": str, "cell": str})[["arm", "seed", "cell"]]
    except (OSError, ValueError, KeyError) as error:
        raise FlowvaeError(f"{place / 'table.csv'}: damaged ({one_line(error)}); run the comparison again.") from None


@dataclass(frozen=True)
class _Arguments:
    """Print means over seeds and paired differences of the corrected NLL.

    Args:
        answer: directory of an answer.
    """

    answer: tyro.conf.Positional[Path]


def main(argv: list[str] | None = None) -> int:
    """Print the tables from the command line."""
    import pandas as pd

    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.engine.corrected_nll")
    torch.set_num_threads(1)
    place = _place(args.answer)
    protocol = _read_protocol(place)
    differences = place / f"differences-{protocol['measure']}.csv"
    try:
        compared = pd.read_csv(inside(place, differences), dtype=str)
        pairs = [*zip(compared["arm"], compared["against"], strict=True)]
    except (OSError, ValueError, KeyError, FlowvaeError) as error:
        raise FlowvaeError(f"{differences}: damaged ({one_line(error)}); run the comparison again.") from None
    table = corrected_nll(place)
    check_table(table)
    print(table.groupby("arm", sort=False)[["nll", "too_much", "corrected"]].mean().round(2).to_string())
    print(paired_differences(table, pairs, "corrected").round(3).to_string(index=False))
    print(f"{table['protocol'].iloc[0]}; seeds {protocol['seeds']}, K = {protocol['draws']}; nats per data point")
    return 0


if __name__ == "__main__":
    run_script(main)
