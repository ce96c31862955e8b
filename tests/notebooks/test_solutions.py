"""The solutions pass the checks of their notebook, and each check refuses a slip with its reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")

FOLDER = Path(__file__).parents[2] / "notebooks"
Solved = Callable[[str], dict[str, Any]]
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.py"))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_pass(path: Path, solved: Solved, capsys: pytest.CaptureFixture[str]) -> None:
    names = solved(path.stem)
    checks = [name for name in names if name.startswith("check_")]
    assert checks
    assert capsys.readouterr().out.count("right") >= len(checks)


def test_slips_of_change_of_variables_are_named(solved: Solved) -> None:
    names = solved("02_change_of_variables")
    right = {k: names[k] for k in ("log_density", "log_density_polar", "flow_log_density")}

    def per_dimension(x: torch.Tensor, layers: list[Any]) -> torch.Tensor:
        u = x
        for layer in reversed(layers):
            u = layer.inv(u)
        base = names["standard"].log_prob(u).sum(-1)
        return 2 * right["flow_log_density"](x, layers) - base

    slips: list[tuple[str, Callable[..., Any], str]] = [
        ("check_1", lambda x: right["log_density"](x).exp(), "logarithm is asked for"),
        ("check_1", lambda x: names["standard"].log_prob(x.logit()), "base density alone"),
        ("check_2", lambda r, t: right["log_density_polar"](r, t) + r.log(), "added once"),
        ("check_2", lambda r, t: right["log_density_polar"](r, t) - r.log(), "area grows"),
        ("check_3", per_dimension, "once per dimension"),
        ("check_3", lambda x, layers: right["flow_log_density"](x, layers[::-1]), "undone first"),
    ]
    for check, slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            names[check](slip)
