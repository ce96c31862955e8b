"""A likelihood of one's own: two classes, and it has a text form, data sets, a VAE and a place in a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec, Units, parse_likelihood
from flowvae.data import Arrays, Dataset
from flowvae.guides import AmortizedGuide, Gaussian
from flowvae.models import VAE, Likelihood, StandardNormal
from flowvae.networks import MLP, Standardize


class Counts(Likelihood):
    """x ~ Poisson(softplus(h)), for every value."""

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(nn.functional.softplus(parameters)).to_event(len(self.shape))


@dataclass(frozen=True)
class CountsLikelihood(LikelihoodSpec, name="my-counts"):
    """Counts without an upper end."""

    discrete: ClassVar[bool] = True
    support = "whole numbers from 0"

    def build(self, shape: Size, units: Units) -> Likelihood:
        return Counts(shape, units)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x != x.round())


class Heteroscedastic(Likelihood):
    """x ~ N(μ, σ²), where the decoder gives μ and log σ of every value, in the units of the data."""

    def __init__(self, shape: Size, units: Units, least: float) -> None:
        super().__init__(shape, units)
        self.least = least

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        mean, log_scale = parameters.chunk(2, dim=-len(self.shape))
        scale = self.unit * (self.least + log_scale.exp())
        return dist.Normal(self.center + self.unit * mean, scale).to_event(len(self.shape))


@dataclass(frozen=True)
class HeteroscedasticLikelihood(LikelihoodSpec, name="my-gaussian"):
    """Real numbers whose noise depends on the code.

    Args:
        least: the smallest scale, in standard deviations of the data.
    """

    discrete: ClassVar[bool] = False
    support = "finite numbers"
    least: float = 0.01

    def parameter_shape(self, shape: Size) -> Size:
        return Size((2 * shape[0], *shape[1:]))

    def units(self, train: Tensor) -> Units:
        return Units(train.mean(), train.std())

    def build(self, shape: Size, units: Units) -> Likelihood:
        return Heteroscedastic(shape, units, self.least)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)


SPECS = [CountsLikelihood(), HeteroscedasticLikelihood(0.1)]


def data_of(spec: LikelihoodSpec, shape: tuple[int, ...]) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    rate = 20 * torch.rand(150, *(1,) * len(shape), generator=generator).expand(150, *shape)
    x = torch.poisson(rate, generator)
    if not spec.discrete:
        x = 100 + 10 * (x + torch.randn(x.shape, generator=generator))
    return Dataset(*x.split(50), likelihood=spec, name="toy", preprocessing="none", split="in order")


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)], ids=str)
def test_it_trains_a_vae(spec: LikelihoodSpec, shape: tuple[int, ...]) -> None:
    data = data_of(spec, shape)
    units = spec.units(data.train)
    likelihood = spec.build(data.shape, units)
    decoder = MLP((16,)).build(Size((2,)), spec.parameter_shape(data.shape))
    model = VAE(StandardNormal().build(2), decoder, likelihood)
    encoder = nn.Sequential(Standardize(*units), MLP((16,)).build(data.shape))
    guide = AmortizedGuide(encoder, Gaussian().build(2, 16))
    svi = SVI(model, guide, Adam({"lr": 1e-2}), loss=Trace_ELBO())
    before = svi.evaluate_loss(data.train)
    for _ in range(60):
        svi.step(data.train)
    assert svi.evaluate_loss(data.train) < before
    assert model(size=5).shape == (5, *shape)
    assert not spec.violations(model(size=5)).any()
    assert model.mean(torch.zeros(7, 2)).shape == (7, *shape)
    pyro.clear_param_store()


def test_their_densities_are_those_of_scipy() -> None:
    h, x = torch.tensor([[-1.0, 0.3, 2.0]]), torch.tensor([[0.0, 2.0, 5.0]])
    found = CountsLikelihood().build(Size((3,)), CountsLikelihood().units(x))(h).log_prob(x)
    expected = scipy.stats.poisson.logpmf(x.numpy(), np.log1p(np.exp(h.numpy()))).sum()
    assert found.item() == pytest.approx(expected, rel=1e-5)
    spec = HeteroscedasticLikelihood(0.5)
    given = spec.build(Size((1, 1, 3)), Units(torch.tensor(10.0), torch.tensor(2.0)))
    density = given(torch.cat((h, h / 2)).reshape(1, 2, 1, 3)).log_prob(x.reshape(1, 1, 1, 3))
    scale = 2 * (0.5 + np.exp(h.numpy() / 2))
    assert density.item() == pytest.approx(
        scipy.stats.norm.logpdf(x.numpy(), 10 + 2 * h.numpy(), scale).sum(), rel=1e-5
    )


def test_it_is_named_by_text_like_ours(tmp_path: Path) -> None:
    assert parse_likelihood("my-counts") == CountsLikelihood()
    assert parse_likelihood("my-gaussian:0.25") == HeteroscedasticLikelihood(0.25)
    assert parse_likelihood("my-gaussian") == HeteroscedasticLikelihood()
    assert [str(spec) for spec in SPECS] == ["my-counts", "my-gaussian:0.1"]
    for text in ("my-counts:3", "my-gaussian:wide", "my-count"):
        with pytest.raises(FlowvaeError, match=text):
            parse_likelihood(text)
    np.savez(tmp_path / "counts.npz", train=np.arange(40).reshape(20, 2))
    assert Arrays(tmp_path / "counts.npz", "my-counts").load(0).likelihood == CountsLikelihood()  # type: ignore[arg-type]


def test_its_support_is_checked() -> None:
    data = data_of(CountsLikelihood(), (2, 4, 4))
    wrong = data.train.clone()
    wrong[7, 1, 2, 3] = -2
    with pytest.raises(FlowvaeError, match=r"-2 at row 7, value \(1, 2, 3\).*whole numbers from 0 \(my-counts\)"):
        Dataset(wrong, data.valid, data.test, CountsLikelihood(), "toy", "none", "in order")


@dataclass(frozen=True)
class TwoSettings(CountsLikelihood, name="my-two"):
    first: int = 3
    second: float = 0.5


def test_a_text_form_never_loses_a_setting() -> None:
    """The first setting is written by its value and the others by name, where they are not the defaults."""
    for spec, text in (
        (TwoSettings(), "my-two"),
        (TwoSettings(5), "my-two:5"),
        (TwoSettings(5, 0.25), "my-two:5:second=0.25"),
        (TwoSettings(second=0.25), "my-two:second=0.25"),
    ):
        assert str(spec) == text
        assert parse_likelihood(text) == spec
    assert parse_likelihood("my-two:first=5:second=2") == TwoSettings(5, 2.0)
    for wrong in ("my-two:5:0.25", "my-two:5:first=3", "my-two:5:third=3", "my-two:second=much", "my-two:5:second="):
        with pytest.raises(FlowvaeError, match=r"my-two\[:FIRST\]\[:second=...\]"):
            parse_likelihood(wrong)


@dataclass(frozen=True)
class WordSettings(CountsLikelihood, name="my-words"):
    total: int
    switch: bool = True
    least: float | None = 0.5
    kind: str = "a"


def test_a_text_form_writes_words() -> None:
    spec = WordSettings(1, False, None, "b")
    assert str(spec) == "my-words:1:switch=false:least=none:kind=b"
    assert parse_likelihood(str(spec)) == spec
    assert parse_likelihood("my-words:1:switch=true:least=3") == WordSettings(1, True, 3.0)
    for wrong in ("my-words", "my-words:switch=false", "my-words:1:switch=1", "my-words:none"):
        with pytest.raises(FlowvaeError, match="my-words:TOTAL"):
            parse_likelihood(wrong)
