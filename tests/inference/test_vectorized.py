"""Models that cannot run once for many draws are fitted draw by draw, and all others at once."""

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from flowvae.core.seeds import seeded
from flowvae.flows import Linear
from flowvae.guides import AutoFlow
from flowvae.inference import GuideSettings, fit_autoguide
from flowvae.inference.vectorized import MixedDrawsWarning, can_vectorize

Y = torch.linspace(0.0, 4.0, 20)
GROUP = torch.arange(20) % 4


def summed(y: Tensor, keep: bool = False) -> None:
    """The posterior mean of each w is N mean(y) / (3 N + 1)."""
    with pyro.plate("three", 3):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    total = w.sum(-1, keepdim=True) if keep else w.sum()
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(total, 1.0), obs=y)


def indexed(y: Tensor, keep: bool = False) -> None:
    """The posterior mean of b is n mean(y of its group) / (n + 1)."""
    with pyro.plate("groups", 4):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(b[..., GROUP] if keep else b[GROUP], 1.0), obs=y)


def subsampled(y: Tensor) -> None:
    a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
    with pyro.plate("data", len(y), subsample_size=5) as index:
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y[index])


class Guide(nn.Module):
    """A guide of `summed` with a density of its own that mixes draws, or does not."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes, self.loc = mixes, nn.Parameter(torch.zeros(3))

    def forward(self, y: Tensor, keep: bool = False) -> None:
        pyro.module("guide", self)
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([2]).to_event(1), infer={"is_auxiliary": True})
        shift = a.sum() if self.mixes else a.sum(-1)
        with pyro.plate("three", 3):
            pyro.sample("w", dist.Normal(self.loc + shift, 1.0))


def test_a_sum_over_all_axes_does_not_mix_the_draws_of_a_fit() -> None:
    guide = AutoFlow(summed, Linear())
    with pytest.warns(MixedDrawsWarning, match=r"vectorize = False"):
        fit_autoguide(summed, guide, GuideSettings(steps=3, particles=4, units=20), args=(Y,), progress=False)
    expected = len(Y) * Y.mean().item() / (3 * len(Y) + 1)
    assert guide.affine_layer.loc_and_scale()[0].tolist() == pytest.approx([expected] * 3, abs=0.02)


@pytest.mark.parametrize("vectorize", [True, False])
def test_an_index_of_the_first_axis_is_fitted_draw_by_draw(vectorize: bool) -> None:
    guide = AutoFlow(indexed, Linear())
    settings = GuideSettings(steps=3, particles=4, units=20, vectorize=vectorize)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_autoguide(indexed, guide, settings, args=(Y,), progress=False)
    assert [w.category for w in caught if w.category is MixedDrawsWarning] == [MixedDrawsWarning] * vectorize
    assert all("b[..., g]" in str(w.message) for w in caught if w.category is MixedDrawsWarning)
    expected = [5 * Y[g == GROUP].mean().item() / 6 for g in range(4)]
    assert guide.affine_layer.loc_and_scale()[0].tolist() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("model", [summed, indexed])
def test_a_model_that_keeps_the_axes_runs_once_for_all_draws(model: Any) -> None:
    for make in (lambda: AutoFlow(model, Linear()), lambda: AutoNormal(model)):
        guide = make()
        guide(Y, keep=True)
        assert can_vectorize(model, guide, (Y,), {"keep": True})
        pyro.clear_param_store()


def test_models_that_subsample_or_are_random_run_once_for_all_draws() -> None:
    def noisy(y: Tensor) -> None:
        a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        pyro.sample("y", dist.Normal(a + b + torch.rand(()), 1.0), obs=y.mean())

    for model in (subsampled, noisy):
        guide = AutoFlow(model, Linear())
        guide(Y)
        assert can_vectorize(model, guide, (Y,), {})


@pytest.mark.parametrize("mixes", [True, False])
def test_a_guide_that_mixes_draws_is_found_too(mixes: bool) -> None:
    guide = Guide(mixes)
    guide(Y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert can_vectorize(summed, guide, (Y,), {"keep": True}) is not mixes
    assert ["the guide gives" in str(w.message) for w in caught] == [True] * mixes
    pyro.clear_param_store()


def test_the_check_leaves_random_numbers_alone() -> None:
    guide = AutoFlow(subsampled, Linear())
    guide(Y)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(1):
        can_vectorize(subsampled, guide, (Y,), {})
    assert torch.equal(torch.rand(3), expected)
