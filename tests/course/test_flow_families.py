"""The exercises of notebook 5 recognize common slips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from flowvae.course.coupling_prior import NOISE, CouplingPrior, prior, vae
from flowvae.course.exercise import Exercise
from flowvae.course.flow_families import bound, coupling, generate, inverse, least_inner_product, normalize


def sees_all(z: Tensor, mask: Tensor, network: Any) -> tuple[Tensor, Tensor]:
    s, t = network(z)
    return mask * z + (1 - mask) * (s.exp() * z + t), ((1 - mask) * s).sum(-1)


def multiplies_by_s(z: Tensor, mask: Tensor, network: Any) -> tuple[Tensor, Tensor]:
    s, t = network(mask * z)
    return mask * z + (1 - mask) * (s * z + t), ((1 - mask) * s).sum(-1)


def with_log_det(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def slip(z: Tensor, mask: Tensor, network: Any) -> tuple[Tensor, Tensor]:
        u, log_det = normalize(z, mask, network)
        return u, change(network(mask * z)[0], mask, log_det)

    return slip


class Forward(CouplingPrior):
    """Draws through the layers in the wrong order."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = torch.randn(*sample_shape, self.features, dtype=torch.float64)
        for mask, network in self.layers:
            z = generate(z, mask, network)
        return z


class Twice(CouplingPrior):
    """Counts the log-determinants once per dimension."""

    def log_prob(self, z: Tensor) -> Tensor:
        right, u = super().log_prob(z), z
        for mask, network in self.layers:
            u, _ = normalize(u, mask, network)
        return 2 * right - dist.Normal(0.0, 1.0).log_prob(u).sum(-1)


class NoDraws(CouplingPrior):
    def rsample(self, sample_shape: Any = ()) -> Any:
        return None


class Detached(CouplingPrior):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape).detach()


def written(**change: Any) -> Callable[..., None]:
    """A model as the exercise wants it, except for what is changed."""
    prior_of = change.get("prior", lambda part: part())

    def model(x: Tensor, prior: nn.Module, decoder: nn.Module) -> None:
        for name, part in (("decoder", decoder), ("prior", prior)):
            if name not in change.get("unregistered", ()):
                pyro.module(name, part)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior_of(prior))
            if change.get("counted_twice"):
                pyro.factor("determinant", prior().log_prob(z))
            x_given_z = dist.Normal(decoder(z), change.get("scale", NOISE))
            pyro.sample("x", x_given_z.to_event(1), obs=None if change.get("drawn") else x)

    return model


def outside_the_plate(x: Tensor, prior: nn.Module, decoder: nn.Module) -> None:
    z = pyro.sample("z", prior())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(decoder(z), NOISE).to_event(1), obs=x)


def without_gradient(part: nn.Module) -> CouplingPrior:
    class Fixed(CouplingPrior):
        def log_prob(self, z: Tensor) -> Tensor:
            with torch.no_grad():
                return super().log_prob(z)

        def rsample(self, sample_shape: Any = ()) -> Tensor:
            return super().rsample(sample_shape).detach()

    flow = part()
    return Fixed(flow.layers, flow.features)


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (coupling, lambda z, mask, net: normalize(z, mask, net)[0], "two things"),
        (coupling, lambda z, mask, net: normalize(z, 1 - mask, net), "exchanged"),
        (coupling, sees_all, "all of z"),
        (coupling, multiplies_by_s, "exp(s)"),
        (coupling, lambda z, mask, net: (generate(z, mask, net), z[:, 0]), "direction"),
        (coupling, with_log_det(lambda s, mask, right: -right), "sign"),
        (coupling, with_log_det(lambda s, mask, right: s.sum(-1)), "over all dimensions"),
        (coupling, with_log_det(lambda s, mask, right: (mask * s).sum(-1)), "that stay"),
        (coupling, with_log_det(lambda s, mask, right: right / 5), "mean"),
        (coupling, with_log_det(lambda s, mask, right: right.exp()), "determinant; the exercise"),
        (coupling, with_log_det(lambda s, mask, right: 0 * right), "NICE"),
        (coupling, with_log_det(lambda s, mask, right: right + 0.1), "0.1 nats"),
        (coupling, with_log_det(lambda s, mask, right: right[:, None]), "(20,)"),
        (inverse, lambda u, mask, net: u, "that were moved"),
        (inverse, lambda u, mask, net: normalize(u, mask, net)[0], "once more"),
        (inverse, lambda u, mask, net: mask * u + (1 - mask) * (u - net(u)[1]) * (-net(u)[0]).exp(), "all of u"),
        (
            inverse,
            lambda u, mask, net: mask * u + (1 - mask) * (u * (-net(mask * u)[0]).exp() - net(mask * u)[1]),
            "shift first",
        ),
        (prior, Forward, "not N(0, I)"),
        (prior, Twice, "once per dimension"),
        (prior, NoDraws, "Now rsample"),
        (prior, Detached, "gradient"),
        (vae, written(unregistered=("prior",)), "weights of prior"),
        (vae, written(unregistered=("decoder",)), "weights of decoder"),
        (vae, written(prior=lambda part: dist.Normal(torch.zeros(2), 1.0).to_event(1)), "N(0, I)"),
        (vae, written(drawn=True), "not observed"),
        (vae, written(scale=NOISE**2), "standard deviation"),
        (vae, written(counted_twice=True), "third term"),
        (vae, outside_the_plate, "inside the plate"),
        (vae, written(prior=without_gradient), "does not change the prior"),
        (bound, -1 / 3, "largest value of h"),
        (bound, -1.0, "tanh"),
        (bound, -4, "multiplied by 3"),
        (bound, 4 / 3, "sign"),
        (bound, -0.75, "inverted"),
        (bound, 17, "17"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


def test_a_check_leaves_the_parameter_store_as_it_was() -> None:
    pyro.param("mine", torch.tensor(1.0))
    assert vae.check(written())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    pyro.clear_param_store()


def test_the_bound_is_where_the_map_along_w_begins_to_fold() -> None:
    height = torch.linspace(-10, 10, 10001, dtype=torch.float64)
    for factor, increasing in ((0.99, True), (1.01, False)):
        moved = height + factor * least_inner_product() * 3 * height.sigmoid()
        assert bool((moved.diff() > 0).all()) is increasing
