"""The exercises of notebook 6: each check refuses its slips with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Solved = Callable[[str], dict[str, Any]]


def test_slips_are_named(solved: Solved, capsys: pytest.CaptureFixture[str]) -> None:
    names = solved("06_the_flow_posterior")
    right = names["stacked_log_det"]

    def all_at_z(z: torch.Tensor, layers: list[Any]) -> torch.Tensor:
        return sum((right(z, [layer]) for layer in layers), torch.zeros(len(z)))

    slips: list[tuple[str, Any, str]] = [
        ("check_1", all_at_z, "every layer is taken at z"),
        ("check_1", lambda z, layers: -right(z, layers), "of the inverse"),
        ("check_1", lambda z, layers: right(z, layers).exp(), "its logarithm is asked for"),
        ("check_1", lambda z, layers: right(z, layers).sum(), "one number a row"),
        ("check_1", lambda z, layers: right(z, layers[::-1]), "from autograd"),
        ("check_2", (50, 50), "location and scale come from the encoder too"),
        ("check_2", (30, 34), "b is one number"),
        ("check_2", (50, 52), "two vectors of the Gaussian"),
        ("check_3", "amortization too large", "this difference is too small"),
        ("check_3", "neither", "stands between them"),
        ("check_3", "both", "one of"),
    ]
    for check, slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            names[check](slip)
    assert "300 steps: reported approximation gap 0.000" in capsys.readouterr().out  # the posterior is a Gaussian
