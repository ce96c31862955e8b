"""Reference posteriors: names and shapes of draws, and errors that say what to put where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import REFERENCE_FOLDER, needs_references

from flowvae.core.errors import FlowvaeError
from flowvae.data import REFERENCES, load_reference

NAME = "sblrc-blr"


def write(folder: Path, **arrays: np.ndarray) -> None:
    """A reference of two chains of three draws."""
    (folder / f"{NAME}.data.json").write_text(json.dumps({"N": 2, "y": [1.0, 2.0]}), encoding="utf-8")
    np.savez(folder / f"{NAME}.npz", **arrays)


def chains(value: float) -> np.ndarray:
    return np.full((2, 3), value)


def test_elements_are_gathered_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {f"beta[{i}]": chains(i) for i in (10, 2, 1, 3, 4, 5, 6, 7, 8, 9)}
    write(tmp_path, sigma=chains(0.5), **names)
    reference = load_reference(tmp_path, NAME)
    assert reference.name == NAME
    assert reference.data == {"N": 2, "y": [1.0, 2.0]}
    assert tuple(reference.draws) == REFERENCES[NAME]
    assert reference.draws["sigma"].shape == (2, 3)
    assert reference.draws["beta"].shape == (2, 3, 10)
    assert (reference.draws["beta"][1, 2] == np.arange(1, 11)).all()


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="did you mean garch-garch11"):
        load_reference(tmp_path, "garch-garch")


def test_a_missing_file_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match=r"in that folder: none\. Put garch-garch11\.data\.json"):
        load_reference(tmp_path / "nowhere", "garch-garch11")
    write(tmp_path, sigma=chains(1))
    with pytest.raises(FlowvaeError, match=f"in that folder: {NAME}"):
        load_reference(tmp_path, "garch-garch11")


@pytest.mark.parametrize(
    "arrays",
    [
        {"beta[1]": chains(1)},
        {"sigma": chains(1)},
        {"sigma": chains(1), "beta[1]": chains(1), "beta[3]": chains(1)},
        {"sigma": chains(1), "beta[1]": chains(1), "beta[2]": np.ones((2, 4))},
        {"sigma": np.ones(3), "beta[1]": chains(1)},
    ],
    ids=["no sigma", "no beta", "a gap", "two shapes", "no chains"],
)
def test_draws_that_lack_something_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write(tmp_path, **arrays)
    with pytest.raises(FlowvaeError, match=r"must have (beta|sigma), or"):
        load_reference(tmp_path, NAME)


@pytest.mark.parametrize("broken", [f"{NAME}.npz", f"{NAME}.data.json"])
def test_a_broken_file_is_refused(tmp_path: Path, broken: str) -> None:
    write(tmp_path, **{"sigma": chains(1), "beta[1]": chains(1)})
    (tmp_path / broken).write_text("not this", encoding="utf-8")
    with pytest.raises(FlowvaeError, match=r"must be an \.npz archive and a JSON file"):
        load_reference(tmp_path, NAME)


@needs_references
@pytest.mark.parametrize("name", REFERENCES)
def test_ten_chains_of_a_thousand_draws(name: str) -> None:
    reference = load_reference(REFERENCE_FOLDER, name)
    assert tuple(reference.draws) == REFERENCES[name]
    for draws in reference.draws.values():
        assert draws.shape[:2] == (10, 1000)
        assert np.isfinite(draws).all()


@pytest.mark.parametrize("content", [b"", np.ones(3)], ids=["empty", "one array"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | np.ndarray) -> None:
    write(tmp_path, **{"sigma": chains(1), "beta[1]": chains(1)})
    with (tmp_path / f"{NAME}.npz").open("wb") as file:
        file.write(content) if isinstance(content, bytes) else np.save(file, content)
    with pytest.raises(FlowvaeError, match=r"must be an \.npz archive and a JSON file"):
        load_reference(tmp_path, NAME)
