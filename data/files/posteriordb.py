"""Reference posteriors of posteriordb, with data and reference draws."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError, nearest, one_line, shown, shown_path
from flowvae.data.files.reading import read_arrays

__all__ = ["REFERENCES", "Reference", "load_reference"]

# parameters that are in both draws and models
REFERENCES: dict[str, tuple[str, ...]] = {
    "eight_schools-eight_schools_noncentered": ("mu", "tau", "theta"),
    "sblrc-blr": ("beta", "sigma"),
    "low_dim_gauss_mix-low_dim_gauss_mix": ("mu", "sigma", "theta"),
    "garch-garch11": ("mu", "alpha0", "alpha1", "beta1"),
    "kidiq-kidscore_interaction": ("beta", "sigma"),
}


@dataclass(frozen=True, eq=False)
class Reference:
    """A posterior with reference draws.

    Args:
        name: name in posteriordb, "data-model".
        data: observed data, by posteriordb's names.
        draws: draws of the constrained parameters, each (chains, draws, ...), by the site names of flowvae's model.
    """

    name: str
    data: dict[str, Any]
    draws: dict[str, NDArray[np.float64]]


def load_reference(folder: Path | str, name: str) -> Reference:
    """Load a reference posterior from `folder/NAME.data.json` and `folder/NAME.npz`.

    The archive has an array (chains, draws) for each scalar: "mu", or "beta[1]", "beta[2]" and so on, which become
    one array (chains, draws, D) named "beta".

    Args:
        folder: folder of the two files.
        name: one of REFERENCES.

    References:
        Magnusson et al. (2024), "posteriordb: testing, benchmarking and developing Bayesian inference algorithms".

    Raises:
        FlowvaeError: for another name, a missing or broken file, or draws that lack a parameter.
    """
    folder = Path(folder).expanduser()
    if name not in REFERENCES:
        raise FlowvaeError(f"reference {shown(name)}: {nearest(name, REFERENCES)}")
    data_path, draws_path = folder / f"{name}.data.json", folder / f"{name}.npz"
    for path in (data_path, draws_path):
        if not path.is_file():
            found = sorted(known for known in REFERENCES if (folder / f"{known}.npz").is_file())
            raise FlowvaeError(
                f"{shown_path(path)}: no such file. References in that folder: {', '.join(found) or 'none'}. "
                f"Put {data_path.name} (the data) and {draws_path.name} (the draws) of posteriordb there."
            )
    rule = "a reference must be an .npz archive and a JSON file of data by name."
    try:
        data = json.loads(data_path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise FlowvaeError(f"{shown_path(data_path)}: {one_line(error)}; {rule}") from None
    if not isinstance(data, dict):
        raise FlowvaeError(f"{shown_path(data_path)}: holds {shown(data)}; {rule}")
    columns = read_arrays(shown_path(draws_path), draws_path, rule)
    return Reference(name, data, {parameter: _gather(draws_path, columns, parameter) for parameter in REFERENCES[name]})


def _gather(path: Path, columns: dict[str, NDArray[np.float64]], parameter: str) -> NDArray[np.float64]:
    """Collect the draws of one parameter, from a single array or from one array for each of its elements."""
    count = sum(re.fullmatch(rf"{parameter}\[\d+\]", key) is not None for key in columns)
    keys = [f"{parameter}[{i}]" for i in range(1, count + 1)] or [parameter]
    shapes = {columns[key].shape for key in keys if key in columns and columns[key].dtype.kind in "biuf"}
    if not columns.keys() >= set(keys) or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise FlowvaeError(
            f"{shown_path(path)}: arrays {shown(', '.join(sorted(columns)))}; must have {parameter}, or "
            f"{parameter}[1], {parameter}[2] and so on, all numeric and of one shape (chains, draws)."
        )
    arrays = [np.asarray(columns[key], dtype=np.float64) for key in keys]
    return np.stack(arrays, -1) if count else arrays[0]
