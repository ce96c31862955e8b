"""Tables of text, with names of columns in the first line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from flowvae import Experiment
from flowvae.core.errors import FlowvaeError
from flowvae.data import Table, as_data

FRAME = pd.DataFrame({"width": [0.1, 0.25, 1e-3] * 10, "species": ["cat", "eel", "dog"] * 10, "age": range(30)})


def test_a_table_is_its_data_frame(tmp_path: Path) -> None:
    for name, settings in (("x.csv", {}), ("x.tsv", {"sep": "\t"}), ("x.csv.gz", {}), ("x.tsv.gz", {"sep": "\t"})):
        FRAME.to_csv(tmp_path / name, index=False, **settings)  # type: ignore[call-overload]
        data = Table(tmp_path / name, "gaussian", "species", ("age",)).load(2)  # type: ignore[arg-type]
        expected = as_data(FRAME, "gaussian", labels="species", conditions=["age"]).load(2)
        assert data.identity.sha256 == expected.identity.sha256
        assert data.classes == ("cat", "dog", "eel")
        assert data.labels is not None
        assert expected.labels is not None
        assert torch.equal(data.labels["train"], expected.labels["train"])


def test_a_table_is_named_in_a_file(tmp_path: Path) -> None:
    experiment = Experiment(data=Table(tmp_path / "x.csv", "gaussian:0.1", "species", ("age",)))  # type: ignore[arg-type]
    experiment.to_yaml(tmp_path / "e.yaml")
    assert Experiment.from_yaml(tmp_path / "e.yaml") == experiment


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    FRAME.to_csv(tmp_path / "x.csv", index=False)
    table = Table("~/x.csv", "gaussian", "species")  # type: ignore[arg-type]
    assert table.path == tmp_path / "x.csv"
    assert table.load(0).features == 2


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "No columns"),
        ("1,2\n3,4\n", {}, "first line .*1, 2"),
        ("a,b\n1,2\n3,4,5,6\n", {}, "cannot be read"),
        ("a,b\n1,2\n", {}, "1 row"),
        ("a,b\n" + "1,x\n" * 9, {}, "'b'"),
        ("a,b\n1,2,3\n4,5,6\n", {}, "cannot be read"),
        (",a,b\n0,1,2\n1,4,5\n", {}, r"column 0.*index=False"),
        ("a,b\n1,2\n", {"labels": "c"}, "'c'.*Known: a, b"),
        ("a,b\n1,2\n", {"conditions": ("b", "c")}, "'c'"),
        ("a,b\n1,2\n", {"labels": "a", "conditions": ("a",)}, "'a' is named twice"),
        ("a,b\n1,2\n", {"labels": "a", "conditions": ("b",)}, "no columns"),
        (b"\xff\xfe\x00", {}, "cannot be read"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str | bytes, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "x.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(FlowvaeError, match=message):
        Table(tmp_path / "x.csv", "gaussian", **settings).load(0)  # type: ignore[arg-type]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="no such file"):
        Table(tmp_path / "none.csv", "gaussian").load(0)  # type: ignore[arg-type]
    for settings in ({"labels": 3}, {"conditions": "age"}, {"conditions": (3,)}):
        with pytest.raises(FlowvaeError, match=f"data.{next(iter(settings))}"):
            Table(tmp_path / "none.csv", "gaussian", **settings)  # type: ignore[arg-type]
