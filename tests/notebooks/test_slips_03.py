"""The exercises of notebook 3: each check refuses its slips with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

Solved = Callable[[str], dict[str, Any]]


def written(**change: Any) -> Callable[..., None]:
    """A model as exercise 3 wants it, but for what is changed."""
    prior_of = change.get("prior", lambda prior: prior())

    def model(x: torch.Tensor, prior: Any, decoder: Any) -> None:
        for name, part in (("decoder", decoder), ("prior", prior)):
            if name not in change.get("unregistered", ()):
                pyro.module(name, part)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior_of(prior))
            if change.get("counted_twice"):
                pyro.factor("determinant", prior().log_prob(z))
            x_given_z = dist.Normal(decoder(z), change.get("scale", 0.1))
            pyro.sample("x", x_given_z.to_event(1), obs=None if change.get("drawn") else x)

    return model


def outside(x: torch.Tensor, prior: Any, decoder: Any) -> None:
    z = pyro.sample("z", prior())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(decoder(z), 0.1).to_event(1), obs=x)


def test_slips_are_named(solved: Solved) -> None:
    names = solved("03_flow_families")
    slips_of_layer_prior_and_planar(names)
    for slip, reason in (
        (written(unregistered=("prior",)), "would leave them as they are"),
        (written(unregistered=("decoder",)), "weights of decoder"),
        (written(prior=lambda prior: dist.Normal(torch.zeros(2), 1.0).to_event(1)), "still comes from N"),
        (written(drawn=True), "drawn, not observed"),
        (written(scale=0.1**2), "NOISE is a standard deviation"),
        (written(counted_twice=True), "a third term"),
        (outside, "inside the plate"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_3"](slip)

    def sees_all(u: torch.Tensor, mask: torch.Tensor, network: Any) -> torch.Tensor:
        s, t = network(u)
        return mask * u + (1 - mask) * (u - t) * (-s).exp()

    with pytest.raises(ValueError, match="seen all of u"):
        names["check_1"](names["normalize"], sees_all)

    class Detached(names["CouplingPrior"]):  # type: ignore[misc]
        def log_prob(self, z: torch.Tensor) -> torch.Tensor:
            moves = -z.square().sum(-1) / 2
            with torch.no_grad():
                rest = super().log_prob(z) - moves
            return moves + rest

    names["CouplingPrior"] = Detached  # the name that LearnedPrior looks up
    with pytest.raises(ValueError, match="learnt nothing"):
        names["check_3"](names["vae_model"])


def slips_of_layer_prior_and_planar(names: dict[str, Any]) -> None:
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
        names["check_4"](lambda u, w: u + (softplus(w @ u) - 1 - w @ u) * w / w.norm())
