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


def test_slips_of_flow_families_are_named(solved: Solved) -> None:
    names = solved("03_flow_families")
    normalize, generate = names["normalize"], names["generate"]

    def all_of_s(z: torch.Tensor, mask: torch.Tensor, network: Any) -> Any:
        return normalize(z, mask, network)[0], network(mask * z)[0].sum(-1)

    def turned(z: torch.Tensor, mask: torch.Tensor, network: Any) -> Any:
        return normalize(z, 1 - mask, network)

    def sees_all(z: torch.Tensor, mask: torch.Tensor, network: Any) -> Any:
        s, t = network(z)
        return mask * z + (1 - mask) * (s.exp() * z + t), ((1 - mask) * s).sum(-1)

    def negative(z: torch.Tensor, mask: torch.Tensor, network: Any) -> Any:
        u, log_det = normalize(z, mask, network)
        return u, -log_det

    for slip, reason in (
        (all_of_s, "those that stay are not scaled"),
        (turned, "roles of the mask"),
        (sees_all, "has seen all of z"),
        (negative, "wrong sign"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_1"](slip, generate)
    with pytest.raises(ValueError, match="does not return to z"):
        names["check_1"](normalize, lambda u, mask, network: u)

    class Forward(names["CouplingPrior"]):  # type: ignore[misc]
        def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
            z = torch.randn(*sample_shape, self.features, dtype=self.layers[0][0].dtype)
            for mask, network in self.layers:
                z = generate(z, mask, network)
            return z

    class Twice(names["CouplingPrior"]):  # type: ignore[misc]
        def log_prob(self, z: torch.Tensor) -> torch.Tensor:
            total = super().log_prob(z)
            for mask, network in self.layers:
                z, _ = normalize(z, mask, network)
            return 2 * total - names["standard"].log_prob(z).sum(-1)

    with pytest.raises(ValueError, match="not N"):
        names["check_2"](Forward)
    with pytest.raises(ValueError, match="once per dimension"):
        names["check_2"](Twice)
    softplus = torch.nn.functional.softplus
    with pytest.raises(ValueError, match="not by ‖w‖"):
        names["check_3"](lambda u, w: u + (softplus(w @ u) - 1 - w @ u) * w / w.norm())
