"""Names of classes as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from flowvae.data.labels import is_text, number_names


@pytest.mark.parametrize(
    "names",
    [
        ["dog", "cat", "dog"],
        np.array(["dog", "cat", "dog"]),
        np.array([b"dog", b"cat", b"dog"]),
        np.array(["dog", "cat", "dog"], dtype=object),
    ],
    ids=["list", "U", "S", "object"],
)
def test_names_of_any_kind_are_numbered_in_sorted_order(names: object) -> None:
    assert is_text(names)
    numbers, classes = number_names({"train": names, "test": np.array(["ant"])})
    assert classes == ("ant", "cat", "dog")
    assert numbers["train"].tolist() == [2, 1, 2]
    assert numbers["test"].tolist() == [0]


@pytest.mark.parametrize("values", [[1, 2], np.arange(3), np.array(["a", 1], dtype=object), [], None, "dog"], ids=str)
def test_other_values_are_not_names(values: object) -> None:
    assert not is_text(values)
