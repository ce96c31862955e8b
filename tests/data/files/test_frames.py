"""Data frames: columns of numbers as data points, named ones as labels and conditions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from flowvae.core.errors import FlowvaeError
from flowvae.data import as_data
from flowvae.data.dataset import SPLITS

NAMES = np.array(["dog", "cat", "eel"] * 10)
FRAME = pd.DataFrame({"width": [1.5, 2.5, 4.0] * 10, "legs": [4, 4, 0] * 10, "species": NAMES, "age": range(30)})


def test_a_data_frame_is_its_numeric_columns() -> None:
    data = as_data(FRAME, "gaussian", labels="species", conditions=["age"]).load(0)
    assert data.features == 2
    assert data.labels is not None
    assert data.conditions is not None
    for split in SPLITS:
        age = data.conditions[split][:, 0].long().tolist()
        assert getattr(data, split).tolist() == FRAME.loc[age, ["width", "legs"]].to_numpy().tolist()
        assert [data.classes[label] for label in data.labels[split].tolist()] == FRAME.loc[age, "species"].tolist()
    nullable = FRAME.assign(legs=FRAME["legs"].astype("Int64"), species=FRAME["species"].astype("category"))
    again = as_data(nullable, "gaussian", labels="species", conditions=["age"]).load(0)
    assert again.identity.sha256 == data.identity.sha256
    assert again.classes == data.classes


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME, "'species'"),
        (FRAME.assign(species=FRAME["species"].astype("category")), "'species'.*category.*get_dummies"),
        (FRAME.assign(species=pd.Timestamp("2020-01-01")), "'species'.*datetime"),
        (FRAME[["width"]].assign(legs=[math.nan, *range(29)]), "value nan at row 0, column 1"),
        (FRAME[["width"]].assign(legs=pd.array([*range(29), None], "Int64")), "value nan at row 29, column 1"),
        (pd.concat([FRAME[["width"]]] * 2, axis=1), "'width' is there twice"),
    ],
    ids=["text", "category", "time", "nan", "missing", "twice"],
)
def test_other_columns_are_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        as_data(frame, "gaussian").load(0)
    with pytest.raises(FlowvaeError, match=r"'specie'.*did you mean species"):
        as_data(FRAME, "gaussian", labels="specie")


def test_labels_and_conditions_may_be_arrays() -> None:
    numbers = FRAME[["width", "legs"]]
    named = as_data(FRAME, "gaussian", labels="species", conditions=["age"])
    given = as_data(numbers, "gaussian", labels=FRAME["species"], conditions=FRAME[["age"]])
    assert given == named
    assert given.load(0).identity == named.load(0).identity


def test_large_whole_numbers_keep_their_digits() -> None:
    start = 2**60
    frame = pd.DataFrame({"id": start + np.arange(30), "x": np.linspace(0, 1, 30)})
    data = as_data(frame, "gaussian").load(0)
    assert data.offset is not None
    assert sorted((data.train[:, 0].double() + (data.offset[0] - start)).tolist()) == sorted(
        round(29 * x) for x in data.train[:, 1].tolist()
    )
