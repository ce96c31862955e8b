"""Log-densities over all latent sites, against the exact ones of linear-Gaussian pairs in plain Pyro."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import Conditional, TwoLevels
from pyro import poutine
from torch import Tensor, nn

from flowvae import FlowvaeError
from flowvae.data import Batch
from flowvae.inference import log_joint
from flowvae.inference.log_density import Draws, draw_latents, log_densities, sample_latents

X = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)


def gaussian(name: str, size: int = 2) -> Tensor:
    return pyro.sample(name, dist.Normal(torch.zeros(size, dtype=torch.float64), 1.0).to_event(1))


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(gaussian("u") * gaussian("v"), 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        gaussian("v")
        gaussian("u")


def draw(model: Callable[..., None], guide: Callable[..., None], batch: Batch, draws: int) -> Draws:
    """Draws of the guide, scored by both."""
    latents, log_guide = draw_latents(guide, batch, draws)
    of_model = log_densities(model, batch, latents)
    return Draws(latents, *(part.expand(draws, len(batch)) for part in of_model), log_guide)


def test_log_densities_are_the_sums_over_observed_and_latent_sites() -> None:
    u, v = torch.randn(2, 4, 3, 2, dtype=torch.float64).unbind(0)
    standard = dist.Normal(0.0, 1.0)
    found = log_densities(model, X, {"u": u, "v": v})
    torch.testing.assert_close(found.observed, dist.Normal(u * v, 1.0).log_prob(X).sum(-1))
    torch.testing.assert_close(found.latent, (standard.log_prob(u) + standard.log_prob(v)).sum(-1))
    torch.testing.assert_close(log_joint(model, Batch(X), {"v": v, "u": u}), found.observed + found.latent)


def test_gradients_reach_the_values() -> None:
    u, v = torch.randn(2, 4, 3, 2, dtype=torch.float64).requires_grad_().unbind(0)
    (slope,) = torch.autograd.grad(log_joint(model, X, {"u": u, "v": v}).sum(), u)
    torch.testing.assert_close(slope, ((X - u * v) * v - u).detach())


def test_draws_of_a_guide_keep_their_values_and_its_density() -> None:
    pair = TwoLevels(shift=0.3, factor=1.2)
    x = pair.data(4)
    torch.manual_seed(0)
    found = draw(pair.model, pair.guide, Batch(x), 5)
    assert {name: value.shape for name, value in found.latents.items()} == {"below": (5, 4, 3), "top": (5, 4, 2)}
    again = log_densities(pair.guide, x, found.latents)  # one row a draw, where `draw` has an outer plate
    torch.testing.assert_close(found.log_guide, again.latent)
    assert torch.equal(again.observed, torch.zeros(5, 4))
    torch.testing.assert_close(found.log_likelihood + found.log_prior, log_joint(pair.model, x, found.latents))
    with pytest.raises(FlowvaeError, match=r"below, top"):
        found.code  # noqa: B018


def test_the_exact_posterior_has_weights_without_variance() -> None:
    pair = TwoLevels()
    x = pair.data(7)
    log_weight = draw(pair.model, pair.guide, Batch(x), 3).log_weight
    torch.testing.assert_close(log_weight, pair.log_evidence(x).expand(3, 7), rtol=1e-10, atol=1e-10)


def test_a_condition_reaches_model_and_guide() -> None:
    pair = Conditional()
    c = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    x = pair.model(c=c, size=4)
    found = draw(pair.model, pair.guide, Batch(x, c), 3)
    torch.testing.assert_close(found.log_weight, pair.log_evidence(x, c).expand(3, 4), rtol=1e-10, atol=1e-10)
    z = torch.randn(3, 4, 2, dtype=torch.float64)
    expected = dist.Normal(c @ pair.b.T, 1.0).log_prob(z).sum(-1)
    expected = expected + dist.Normal(z @ pair.w.T + c @ pair.v.T, 0.6).log_prob(x).sum(-1)
    torch.testing.assert_close(log_joint(pair.model, Batch(x, c), z), expected)


def test_a_model_without_latent_sites_is_its_log_likelihood() -> None:
    def of_data(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

    found = draw(of_data, lambda x: None, Batch(X), 4)
    expected = dist.Normal(0.0, 1.0).log_prob(X).sum(-1).expand(4, 3)
    torch.testing.assert_close(found.log_weight, expected)
    assert found.latents == {}


def test_no_layer_takes_draws_for_data() -> None:
    """A convolution sees codes of shape (draws, N, D) as unbatched images, and one row a draw as they are."""
    layer = nn.Conv1d(1, 1, 2).double()

    def convolved(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 3, dtype=torch.float64), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(layer(z).flatten(1), 1.0).to_event(1), obs=x)

    z = torch.randn(4, 3, 1, 3, dtype=torch.float64)
    alone = torch.stack([log_joint(convolved, X, one.unsqueeze(0))[0] for one in z])
    torch.testing.assert_close(log_joint(convolved, X, z), alone)


def test_handlers_around_do_not_see_the_sites() -> None:
    with poutine.trace() as outer, pyro.plate("outer", 5, dim=-2):
        log_joint(model, X, dict.fromkeys(("u", "v"), torch.zeros(1, 3, 2, dtype=torch.float64)))
    assert not {"u", "v", "x"} & set(outer.trace.nodes)


def test_sampled_latents_come_from_the_program() -> None:
    pair = TwoLevels()
    torch.manual_seed(0)
    values = sample_latents(pair.model, Batch(pair.data(2)), 20_000)
    assert list(values) == ["top", "below"]
    torch.testing.assert_close(torch.cov(values["below"].flatten(0, 1).T), pair.covariance, rtol=0.05, atol=0.05)


def outside(x: Tensor) -> None:
    gaussian("u")
    with pyro.plate("data", len(x)):
        v = gaussian("v")
        pyro.sample("x", dist.Normal(v, 1.0).to_event(1), obs=x)


def wide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        gaussian("u", 3)
        gaussian("v")


def scaled(x: Tensor) -> None:
    with poutine.scale(scale=0.5):
        model(x)


def point(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        gaussian("u")
        pyro.sample("v", dist.Delta(torch.zeros(2, dtype=torch.float64)).to_event(1))


def nested(x: Tensor) -> None:
    with pyro.plate("data", len(x)), pyro.plate("inner", 2):
        pyro.sample("u", dist.Normal(0.0, 1.0))


def clashing(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
        pyro.sample("u", dist.Normal(0.0, 1.0))


def alone(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        gaussian("u")


def more(x: Tensor) -> None:
    guide(x)
    with pyro.plate("again", len(x)):
        gaussian("w")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((model, outside), r"site 'u'.*\(4, 1\).*\(4, 3\)"),
        ((outside, guide), r"site 'u'.*\(12, 2\).*\(2,\)"),
        ((model, wide), r"site 'u'.*\(12, 3\).*\(12, 2\)"),
        ((scaled, guide), r"scale.*x, u, v|scale.*u, v, x"),
        ((model, scaled), r"scale"),
        ((model, point), r"site 'v'.*point"),
        ((model, nested), r"'u'.*\(2, 4, 3\)"),
        ((model, clashing), r"plate"),
        ((model, alone), r"'v'.*for u"),
        ((model, more), r"'w'.*u, v"),
    ],
    ids=lambda value: "-".join(part.__name__ for part in value) if isinstance(value, tuple) else "",
)
def test_what_has_not_one_density_a_draw_and_data_point_is_refused(
    pair: tuple[Callable[[Tensor], None], Callable[[Tensor], None]], message: str
) -> None:
    with pytest.raises(FlowvaeError, match=message):
        draw(*pair, Batch(X), 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(4, 3, 2, dtype=torch.float64), "u, v"),
        ({"u": torch.zeros(4, 2, 2)}, r"\(4, 2, 2\) for 3"),
        ({"u": torch.zeros(4, 3, 2), "v": torch.zeros(2, 3, 2)}, r"\(2, 3, 2\)"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: Tensor | dict[str, Tensor], message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        log_joint(model, X, values)
