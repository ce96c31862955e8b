"""ELBO surgery, held-out codes and the aggregated posterior, where their values are known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from helpers import disturb
from latent_cases import Prior, Shifted, Warped, ppca, share_covered, standard
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from zuko.distributions import NormalizingFlow

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
from flowvae.core.registry import families
from flowvae.evaluation.latent.aggregated_posterior import AggregatedPosterior
from flowvae.evaluation.latent.prior_overfitting import measure_prior_overfitting
from flowvae.evaluation.latent.surgery import Surgery, measure_surgery
from flowvae.flows import IAF, MAF
from flowvae.guides import AmortizedGuide, FlowGuide

pytestmark = pytest.mark.usefixtures("float64")


def flow_guide(latent: int = 4) -> AmortizedGuide:
    guide = AmortizedGuide(nn.Sequential(nn.Linear(5, 8), nn.Tanh()), FlowGuide(IAF()).build(latent, 8))
    disturb(guide, 0.1)
    return guide


def mixture(centres: Tensor, scale: float) -> MixtureSameFamily:
    """Gaussians of one width around the centres, with equal weights: what q̄ of `Shifted` is."""
    parts = Independent(Normal(centres, torch.full_like(centres, scale)), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(centres))), parts)


def repeats(size: int, count: int = 100) -> list[Surgery]:
    """Surgery of probabilistic PCA with its exact posterior, under the prior N((0.6, 0), I)."""
    prior = Prior(Independent(Normal(torch.tensor([0.6, 0.0]), torch.ones(2)), 1))
    results = []
    for seed in range(count):
        _, guide, x = ppca(size, seed)
        results.append(measure_surgery(prior, guide, x, seed=seed))
    return results


def test_information_and_marginal_kl_of_probabilistic_pca() -> None:
    """I = ½ log|Λ| and KL(N(0, I)‖N(δ, I)) = ‖δ‖²/2; the stated intervals cover them 95 % of the time."""
    model, _, _ = ppca(1, 0)
    truth = 0.5 * torch.logdet(model.precision()).item()
    informations, marginals = [], []
    for result in repeats(200):
        values = {metric.name: metric for metric in result.metrics("test", {})}
        information, marginal = values["mutual_information"], values["marginal_kl"]
        assert information.se
        assert marginal.se
        informations.append((information.value + result.subsampling_bias, information.se))
        marginals.append((marginal.value - result.subsampling_bias, marginal.se))
    assert 88 <= share_covered(informations, truth) <= 100
    assert 88 <= share_covered(marginals, 0.6**2 / 2) <= 100


def test_few_data_bias_both_parts_and_the_bias_is_stated() -> None:
    """The same population through 30 data: I is too small, KL(q̄‖p) too large, both as stated."""
    model, _, _ = ppca(1, 0)
    truth = 0.5 * torch.logdet(model.precision()).item()
    results = repeats(30, 200)
    information = torch.tensor([result.information.mean() for result in results])
    marginal = torch.tensor([result.marginal_kl.mean() for result in results])
    bias = torch.tensor([result.subsampling_bias for result in results])
    for value, exact, sign in ((information, truth, -1), (marginal, 0.18, +1)):
        error = value.std() / math.sqrt(200)
        assert sign * (value.mean() - exact) > 3 * error
        assert (value - sign * bias - exact).mean().abs() < 2.5 * error


def test_the_value_of_exactly_these_data() -> None:
    """Three data on a line: I by an integral over z."""
    x = torch.tensor([[0.0], [0.7], [2.0]])
    guide, z = Shifted(0.6), torch.linspace(-8, 10, 20_001)[:, None]
    q_bar = mixture(x, 0.6)
    entropy = -torch.trapezoid(q_bar.log_prob(z).exp() * q_bar.log_prob(z), z[:, 0])
    truth = (entropy - Normal(0.0, 0.6).entropy()).item()
    prior_term = torch.trapezoid(q_bar.log_prob(z).exp() * Normal(0.0, 1.0).log_prob(z[:, 0]), z[:, 0])
    marginal = (-entropy - prior_term).item()
    results = [measure_surgery(standard(1), guide, x, draws=60, seed=seed) for seed in range(100)]
    for values, exact in (
        (torch.tensor([result.information.mean() for result in results]), truth),
        (torch.tensor([result.marginal_kl.mean() for result in results]), marginal),
    ):
        assert abs(values.mean() - exact) < 3 * values.std() / 10
        assert values.std() < 0.1  # so that an error would show


def test_information_never_passes_log_n_and_reaches_it() -> None:
    _, guide, x = ppca(50, 0)
    result = measure_surgery(standard(2), guide, x)
    torch.testing.assert_close(result.information + result.marginal_kl, result.kl)
    assert (result.information <= math.log(50)).all()
    apart = measure_surgery(standard(2), Shifted(0.01), 10 * torch.randn(50, 2))
    assert apart.information.mean().item() == pytest.approx(math.log(50), abs=1e-9)
    assert apart.subsampling_bias > 100  # says that the data are too few to know I


def test_surgery_does_not_change_under_a_bijection() -> None:
    """Prior and guide both sent through a flow: every term of every draw stays the same."""
    lazy = MAF(transforms=2).transform(2)
    disturb(lazy, 0.3)
    with torch.no_grad():
        transform = lazy()
    _, guide, x = ppca(40, 0)
    one = measure_surgery(standard(2), guide, x, draws=3)
    prior = Prior(NormalizingFlow(transform.inv, standard(2).prior()))
    other = measure_surgery(prior, Warped(guide, transform), x, draws=3)
    torch.testing.assert_close(one.information, other.information)
    torch.testing.assert_close(one.marginal_kl, other.marginal_kl)


def test_nothing_depends_on_the_chunk_and_everything_on_the_seed() -> None:
    guide, x = flow_guide(), torch.randn(70, 5)
    first = measure_surgery(standard(4), guide, x, draws=2)
    again = measure_surgery(standard(4), guide, x, draws=2, chunk=37)
    torch.testing.assert_close(first.log_aggregated, again.log_aggregated, rtol=1e-12, atol=1e-12)
    assert torch.equal(first.log_own, again.log_own)
    assert not torch.equal(first.log_own, measure_surgery(standard(4), guide, x, draws=2, seed=1).log_own)


@pytest.mark.parametrize("name", ["full-rank", "iaf", "realnvp", "planar", "inverse-bpf"])
def test_log_density_is_that_of_the_mixture(name: str) -> None:
    """Datum by datum and code by code, for guides that could mistake one for the other."""
    guide = AmortizedGuide(nn.Sequential(nn.Linear(5, 8), nn.Tanh()), families("guide")[name].default.build(3, 8))
    disturb(guide, 0.1)
    x, z = torch.randn(3, 5), 0.5 * torch.randn(2, 3)
    with torch.no_grad():
        table = torch.stack([torch.cat([guide.posterior(x[[n]]).log_prob(z[[m]]) for n in range(3)]) for m in range(2)])
    aggregated = AggregatedPosterior(guide, x, chunk=2)
    torch.testing.assert_close(aggregated.log_prob(z), table.logsumexp(1) - math.log(3), rtol=0, atol=1e-9)
    table[torch.arange(2), torch.arange(2)] = -math.inf
    others = aggregated.log_prob(z, without=torch.arange(2))
    torch.testing.assert_close(others, table.logsumexp(1) - math.log(2), rtol=0, atol=1e-9)


def test_draws_of_the_aggregate_have_its_moments() -> None:
    x = torch.tensor([[-2.0], [4.0]])
    z = AggregatedPosterior(Shifted(0.5), x).sample(20_000, seed=0)
    assert z.mean().item() == pytest.approx(1.0, abs=4 * 3.05 / 140)
    assert z.var().item() == pytest.approx(9.25, rel=0.02)


def test_a_slow_guide_says_what_it_will_cost() -> None:
    guide, x = flow_guide(), torch.randn(40, 5)
    cost = AggregatedPosterior(guide, x).cost(40)
    assert cost.densities == 1600
    assert cost.passes == IAF().cost(4).density // IAF().transforms  # of each network; it has one a transform
    assert cost.seconds > 0
    with pytest.warns(SlowDirectionWarning, match=r"1.6e\+03 foreign densities, 5 passes"):
        measure_surgery(standard(4), guide, x, chunk=500, patience=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AggregatedPosterior(guide, x[:5], patience=0.0).log_prob(torch.zeros(3, 4))  # too little to speak of


def test_codes_that_are_alike_show_no_memorization() -> None:
    """Train and held-out data of one population, exact guide: both differences are 0 within their intervals."""
    intervals: dict[str, list[tuple[float, float]]] = {"prior_memorization": [], "encoder_memorization": []}
    for seed in range(100):
        _, guide, x = ppca(250, seed)
        result = measure_prior_overfitting(standard(2), guide, x[:100], x[100:], seed=seed)
        for metric in result.metrics("test", {}):
            if metric.name in intervals:
                assert metric.se
                intervals[metric.name].append((metric.value, metric.se))
    for found in intervals.values():
        assert 88 <= share_covered(found, 0.0) <= 100


def test_a_prior_that_knows_the_training_codes_by_heart() -> None:
    """The prior is narrower around training codes than the guide: they gain, held-out codes lose."""
    torch.manual_seed(0)
    x, train = 3 * torch.randn(100, 2), 3 * torch.randn(60, 2)
    result = measure_prior_overfitting(Prior(mixture(train, 0.1)), Shifted(0.1), x, train, draws=5)
    values = {metric.name: metric for metric in result.metrics("test", {"seed": 0})}
    memorized = values["prior_memorization"]
    assert memorized.se
    assert memorized.value > 3 * memorized.se
    # this prior is q̄ itself, which tells the same of new codes as the aggregate does
    assert values["prior_above_aggregate"].value == pytest.approx(0.0, abs=1e-9)
    assert values["held_out_codes_log_prior"].protocol == {"seed": 0, "draws": 5, "data_in_aggregate": 60}
    encoder = values["encoder_memorization"]
    assert encoder.se
    assert abs(encoder.value) < 3 * encoder.se


def test_mistakes_are_refused() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(FlowvaeError, match="draws = 0"):
        measure_surgery(standard(2), Shifted(1.0), x, draws=0)
    with pytest.raises(FlowvaeError, match="1 data"):
        measure_surgery(standard(2), Shifted(1.0), x[:1])
    with pytest.raises(FlowvaeError, match="chunk = 0"):
        AggregatedPosterior(Shifted(1.0), x, chunk=0)
    with pytest.raises(FlowvaeError, match=r"x: shape \(0, 2\)"):
        AggregatedPosterior(Shifted(1.0), x[:0])
    with pytest.raises(FlowvaeError, match="left out"):
        AggregatedPosterior(Shifted(1.0), x[:1]).log_prob(x[:1], without=torch.zeros(1))
