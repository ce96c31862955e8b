"""Tables of text: columns of numbers from a `.csv` file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flowvae.core.errors import FlowvaeError, one_line, shown, shown_path
from flowvae.core.parts import LikelihoodSpec, as_likelihood
from flowvae.data.dataset import Dataset, DataSpec
from flowvae.data.files.frames import part_of_frame
from flowvae.data.files.reading import check_regular_file, data_path
from flowvae.data.preparation import prepare

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table"]

REMEDY = "name a table of text with one line of column names."


@dataclass(frozen=True)
class Table(DataSpec, name="table"):
    """A `.csv`, or a `.tsv` with tabs, whose first line has the names of the columns; may be compressed (`.csv.gz`).

    Data points are the rows; all columns other than labels and conditions must hold numbers. Valid and test are drawn,
    15 % each, by the run's seed.

    Args:
        path: the file; `~` is the home directory.
        likelihood: likelihood of the values, in text form.
        labels: the column of class labels, numbers or names; none: no labels.
        conditions: columns of the conditions of a conditional model.
    """

    title: ClassVar[str] = "columns of your own .csv"

    path: Path
    likelihood: LikelihoodSpec
    labels: str | None = None
    conditions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", data_path("data.path", self.path, "the path of a .csv"))
        object.__setattr__(self, "likelihood", as_likelihood("data.likelihood", self.likelihood))
        if self.labels is not None and not isinstance(self.labels, str):
            raise FlowvaeError(f"data.labels = {shown(self.labels)}: must be the name of a column, or none.")
        conditions = tuple(self.conditions) if isinstance(self.conditions, list) else self.conditions
        if not isinstance(conditions, tuple) or not all(isinstance(name, str) for name in conditions):
            raise FlowvaeError(f"data.conditions = {shown(conditions)}: must be names of columns.")
        object.__setattr__(self, "conditions", conditions)

    def load(self, seed: int) -> Dataset:
        where = shown_path(self.path)
        parts = {"train": part_of_frame(where, _read(self.path), self.labels, self.conditions)}
        return prepare(where, parts, self.likelihood, seed, name=self.path.name)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    where = f"data.path = {shown_path(path)}"
    check_regular_file(where, path, REMEDY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows with more values than names
            frame = pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", index_col=False)
    except (ValueError, OSError, EOFError, MemoryError, Warning) as error:  # pandas' own errors are ValueErrors
        raise FlowvaeError(f"{where}: cannot be read as a table ({one_line(error).rstrip('.')}); {REMEDY}") from None
    if all(_is_number(name) for name in frame.columns):
        first = ", ".join(map(str, frame.columns[:3]))
        raise FlowvaeError(
            f"{where}: its first line holds numbers ({shown(first)}); put the names of the columns there."
        )
    if nameless := [i for i, name in enumerate(frame.columns) if name == f"Unnamed: {i}"]:
        raise FlowvaeError(
            f"{where}: column {nameless[0]} has no name; name it; an index of pandas is left out by "
            "frame.to_csv(PATH, index=False)."
        )
    return frame


def _is_number(name: object) -> bool:
    try:
        float(str(name))
    except ValueError:
        return False
    return True
