"""Autoregressive models against exact enumeration, against Pyro's own traces, and under plain SVI."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import disturb
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from scipy.stats import chi2, kstest
from torch import Size, Tensor

from flowvae import Digits, FlowvaeError, Training
from flowvae.core.parts import LikelihoodSpec
from flowvae.data import Dataset
from flowvae.evaluation import flow_metrics, measure_flow
from flowvae.guides import NoGuide
from flowvae.inference import fit
from flowvae.models import (
    Autoregressive,
    AutoregressiveBernoulli,
    AutoregressiveCategorical,
    AutoregressiveGaussianMixture,
    AutoregressiveLikelihoodSpec,
    AutoregressiveLogisticMixture,
    AutoregressiveModel,
    BernoulliLikelihood,
    BinomialLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    LogisticMixture,
    PoissonLikelihood,
    default_autoregressive_likelihood,
)
from flowvae.networks import MADE, CausalSpec, PixelCNN, WaveNet

NETWORKS: dict[str, CausalSpec] = {
    "made": MADE((24,)),
    "wavenet": WaveNet(channels=6, dilations=(1, 2, 4)),
    "pixelcnn": PixelCNN(channels=6, layers=3),
    "masked": PixelCNN("masked", channels=6, layers=3),
}
HEADS: dict[str, tuple[AutoregressiveLikelihoodSpec, LikelihoodSpec]] = {
    "bernoulli": (AutoregressiveBernoulli(), BernoulliLikelihood()),
    "categorical-bits": (AutoregressiveCategorical(), BernoulliLikelihood()),
    "categorical": (AutoregressiveCategorical(), BinomialLikelihood(4)),
    "logistics": (AutoregressiveLogisticMixture(3), BinomialLikelihood(4)),
    "one-logistic": (AutoregressiveLogisticMixture(1), BinomialLikelihood(4)),
    "gaussians": (AutoregressiveGaussianMixture(3), GaussianLikelihood()),
}
DISCRETE = {name: pair for name, pair in HEADS.items() if pair[1].discrete}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
each_head = pytest.mark.parametrize(("head", "likelihood"), HEADS.values(), ids=HEADS.keys())
each_discrete = pytest.mark.parametrize(("head", "likelihood"), DISCRETE.values(), ids=DISCRETE.keys())


def levels(likelihood: LikelihoodSpec) -> int:
    assert likelihood.largest is not None
    return likelihood.largest + 1


def dataset(likelihood: LikelihoodSpec, shape: tuple[int, ...] = (1, 1, 3), rows: int = 60) -> Dataset:
    generator = torch.Generator().manual_seed(3)
    size = (rows, *shape)
    if likelihood.discrete:
        x = torch.randint(0, levels(likelihood), size, generator=generator).float()
    else:
        x = 5.0 + 3.0 * torch.randn(size, generator=generator)
    x = x.to(torch.get_default_dtype())
    return Dataset(x[:40], x[40:50], x[50:], likelihood, "toy", "none", "in order")


def build(
    network: CausalSpec,
    head: AutoregressiveLikelihoodSpec,
    likelihood: LikelihoodSpec,
    context: int = 0,
    shape: tuple[int, ...] = (1, 1, 3),
    scale: float = 0.4,
) -> AutoregressiveModel:
    model = Autoregressive(network, head).build(dataset(likelihood, shape), context)
    disturb(model, scale)
    return model


def states(likelihood: LikelihoodSpec, features: int = 3) -> Tensor:
    values = range(levels(likelihood))
    rows = torch.tensor(list(itertools.product(values, repeat=features)), dtype=torch.get_default_dtype())
    return rows[:, None, None]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("total", [1, 2, 16, 255])
def test_discretized_logistics_sum_to_one(total: int) -> None:
    torch.manual_seed(1)
    logits, loc, log_scale = torch.randn(3, 6, 4).unbind(0)
    for width in (-7.0, -3.0, 0.0, 3.0):
        mixture = LogisticMixture(logits, 2 * loc, log_scale + width, total)
        counts = torch.arange(total + 1.0).unsqueeze(-1).expand(-1, 6)
        torch.testing.assert_close(mixture.log_prob(counts).logsumexp(0), torch.zeros(6), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_discretized_logistics_are_differences_of_sigmoids() -> None:
    logits, loc, log_scale = torch.tensor([[0.3, -0.2], [0.1, -0.5], [-1.0, 0.2]])
    mixture = LogisticMixture(logits, loc, log_scale, 4)
    edges = torch.tensor([-math.inf, -0.75, -0.25, 0.25, 0.75, math.inf]).unsqueeze(-1)
    cdf = torch.sigmoid((edges - loc) / log_scale.exp())
    expected = ((cdf[1:] - cdf[:-1]) * logits.softmax(-1)).sum(-1)
    torch.testing.assert_close(mixture.log_prob(torch.arange(5.0)).exp(), expected)


def test_discretized_logistics_are_finite_in_the_far_tail() -> None:
    loc = torch.tensor([[50.0], [-50.0]], requires_grad=True)
    log_scale = torch.full((2, 1), -7.0, requires_grad=True)
    mixture = LogisticMixture(torch.zeros(2, 1), loc, log_scale, 255)
    total = mixture.log_prob(torch.tensor([0.0, 100.0])).sum() + mixture.log_prob(torch.tensor([255.0, 0.0])).sum()
    total.backward()
    assert torch.isfinite(total)
    for parameter in (loc, log_scale):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_discretized_logistics_are_a_pyro_distribution() -> None:
    logits, loc, log_scale = torch.randn(3, 5, 2).unbind(0)
    mixture = LogisticMixture(logits, loc, log_scale, 3)
    assert mixture.expand(torch.Size((4, 5))).sample((2,)).shape == (2, 4, 5)
    with pytest.raises(ValueError, match="support"):
        mixture.log_prob(torch.full((5,), 4.0))
    # the sampler against the probabilities
    draws = mixture.sample((4000,))
    seen = torch.stack([(draws == count).double().sum(0) for count in range(4)])
    expected = torch.stack([mixture.log_prob(torch.full((5,), float(c))).double().exp() for c in range(4)]) * 4000
    statistic = ((seen - expected).square() / expected).sum(0)
    assert (statistic < chi2.ppf(1 - 1e-4, 3)).all()


@pytest.mark.usefixtures("float64")
@each_discrete
def test_a_head_sums_to_one_over_its_support(head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec) -> None:
    built = head.build(likelihood, dataset(likelihood).train)
    conditional = built(3 * torch.randn(7, 3, built.parameters_each))
    assert conditional.batch_shape == (7, 3)
    each = torch.stack([conditional.log_prob(torch.full((7, 3), float(v))) for v in range(levels(likelihood))])
    torch.testing.assert_close(each.logsumexp(0), torch.zeros(7, 3), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_gaussian_mixture_integrates_to_one() -> None:
    train = torch.tensor([[3.0, -100.0], [5.0, 300.0], [7.0, 100.0]])
    head = AutoregressiveGaussianMixture(3).build(GaussianLikelihood(), train)
    conditional = head(torch.randn(2, head.parameters_each))
    grid = head.center + head.unit * torch.linspace(-40, 40, 200_001).unsqueeze(-1)
    mass = torch.trapezoid(conditional.log_prob(grid).exp(), grid, dim=0)
    torch.testing.assert_close(mass, torch.ones(2), rtol=1e-6, atol=0)


@pytest.mark.usefixtures("float64")
@each_network
@each_discrete
def test_the_joint_sums_to_one(
    network: CausalSpec, head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec
) -> None:
    model = build(network, head, likelihood, context=2)
    x = states(likelihood)
    for context in torch.randn(2, 2):
        total = model.log_prob(x, context).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros(()), rtol=0, atol=1e-9)


@each_network
@each_discrete
def test_ancestral_samples_agree_with_the_exact_joint(
    network: CausalSpec, head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec
) -> None:
    model = build(network, head, likelihood, scale=0.2)
    x = states(likelihood)
    size = 6000
    with torch.no_grad():
        expected = size * model.log_prob(x).double().exp()
    torch.manual_seed(11)
    draws = model.sample(size, progress=False)
    assert draws.shape == (size, 1, 1, 3)
    assert not draws.requires_grad
    base = levels(likelihood)
    index = (draws.flatten(1) @ torch.tensor([base**2, base, 1.0])).long()
    seen = torch.bincount(index, minlength=base**3).double()
    # states that are expected less than five times are counted as one
    rare = expected < 5
    pooled = torch.cat((expected[~rare], expected[rare].sum(0, keepdim=True)))
    counted = torch.cat((seen[~rare], seen[rare].sum(0, keepdim=True)))
    keep = pooled >= 5
    assert keep.sum() >= 6
    statistic = ((counted - pooled).square() / pooled)[keep].sum().item()
    assert statistic < chi2.ppf(1 - 1e-4, int(keep.sum()) - 1)


def test_ancestral_samples_of_real_data_agree_with_the_density() -> None:
    """The probability integral transform of each value, given those before it, is uniform."""
    model = build(MADE((24,)), AutoregressiveGaussianMixture(2), GaussianLikelihood())
    torch.manual_seed(2)
    x = model.sample(4000, progress=False).flatten(1)
    with torch.no_grad():
        mixture = model.head(model.network(model.head.standardize(x)))
        normal, weights = mixture.component_distribution, mixture.mixture_distribution.probs
        uniform = (weights * normal.cdf(x.unsqueeze(-1))).sum(-1)
    for column in uniform.T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4


@each_network
@each_head
def test_log_prob_is_that_of_pyros_trace(
    network: CausalSpec, head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec
) -> None:
    model, x = build(network, head, likelihood), dataset(likelihood).test
    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.log_prob(x))
    torch.testing.assert_close(trace.log_prob_sum(), model.log_prob(x).sum())
    # and the product of the conditionals, each asked for on its own
    flat = x.flatten(1)
    each = model.head(model.network(model.head.standardize(flat))).log_prob(flat)
    assert each.shape == flat.shape
    torch.testing.assert_close(each.sum(-1), model.log_prob(x))


@pytest.mark.parametrize("vectorized", [False, True])
def test_the_elbo_without_a_latent_is_the_exact_likelihood(vectorized: bool) -> None:
    model, x = (
        build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4)),
        dataset(BinomialLikelihood(4)).train,
    )
    elbo = Trace_ELBO(num_particles=3, max_plate_nesting=1, vectorize_particles=vectorized)
    assert elbo.loss(model, NoGuide(), x) == pytest.approx(-model.log_prob(x).sum().item(), rel=1e-5)


@each_network
@each_head
def test_every_parameter_gets_a_gradient(
    network: CausalSpec, head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec
) -> None:
    model = build(network, head, likelihood, shape=(1, 3, 4))
    Trace_ELBO().loss_and_grads(model, NoGuide(), dataset(likelihood, (1, 3, 4)).train)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@each_network
def test_plain_svi_lowers_the_loss(network: CausalSpec) -> None:
    data = Digits().load(0)
    model = Autoregressive(replace(network)).build(data)
    svi = SVI(model, NoGuide(), Adam({"lr": 1e-2}), loss=Trace_ELBO())
    x = data.train[:128]
    first = svi.evaluate_loss(x)
    for _ in range(15):
        svi.step(x)
    assert svi.evaluate_loss(x) < 0.9 * first
    assert len(pyro.get_param_store()) == 0


def test_maximum_likelihood_reaches_the_entropy_of_the_data() -> None:
    """With enough freedom the best model is the empirical distribution, whose NLL is its entropy."""
    counts = torch.tensor([9, 1, 4, 6, 2, 12, 3, 3])
    x = states(BernoulliLikelihood()).repeat_interleave(counts, dim=0).flatten(1)
    frequencies = counts / counts.sum()
    entropy = -(frequencies * frequencies.log()).sum().item()
    model = Autoregressive(MADE((32,))).build(Dataset(x, x, x, BernoulliLikelihood(), "toy", "none", "all"))
    settings = Training(epochs=150, batch_size=len(x), learning_rate=3e-2, patience=150, device="cpu")
    fitted = fit(model, NoGuide(), x, x, settings, progress=False)
    nll = -fitted.history["valid_elbo"].max()
    assert nll > entropy - 1e-5  # no distribution codes the data in less
    assert nll == pytest.approx(entropy, abs=5e-3)


@each_head
def test_fit_trains_it_and_keeps_the_best(head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec) -> None:
    data = dataset(likelihood)
    model, guide = Autoregressive(MADE((8,)), head).build(data), NoGuide()
    settings = Training(epochs=3, batch_size=20, learning_rate=1e-2, validation_draws=1, device="cpu")
    fitted = fit(model, guide, data.train, data.valid, settings, progress=False)
    # the validation ELBO is the exact likelihood, whatever the number of draws
    exact = model.log_prob(data.valid).mean().item()
    assert exact == pytest.approx(fitted.history["valid_elbo"].max(), rel=1e-5)
    again = Autoregressive(MADE((8,)), head).build(data)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.log_prob(data.test), model.log_prob(data.test))


def test_predictive_and_render_model_work() -> None:
    model = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4))
    assert Predictive(model, num_samples=3)(None, None, 5)["x"].shape == (3, 5, 1, 1, 3)
    assert Predictive(model, num_samples=3, parallel=True)(None, None, 5)["x"].shape == (3, 5, 1, 1, 3)
    assert "x" in pyro.render_model(model, model_args=(None, None, 4)).source
    model = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4), context=2)
    assert model(c=torch.randn(5, 2)).shape == (5, 1, 1, 3)


@each_network
@each_head
def test_the_context_changes_the_output(
    network: CausalSpec, head: AutoregressiveLikelihoodSpec, likelihood: LikelihoodSpec
) -> None:
    model, x = build(network, head, likelihood, context=2), dataset(likelihood).test
    context = torch.randn(len(x), 2)
    values = model.log_prob(x, context)
    assert values.shape == (len(x),)
    assert (model.log_prob(x, context + 1) != values).all()
    torch.testing.assert_close(model.log_prob(x[3], context[3]), values[3], rtol=1e-4, atol=1e-5)
    assert model.sample(4, context[0], progress=False).shape == (4, 1, 1, 3)
    assert model.sample(4, context[:4], progress=False).shape == (4, 1, 1, 3)


def test_a_context_may_be_a_latent_of_another_site() -> None:
    """What a decoder will do: a code drawn in the same plate is the context of the pixels."""
    model = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4), context=2)
    x = dataset(BinomialLikelihood(4)).test

    def pair(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", model.distribution(z), obs=x)

    with pyro.plate("draws", 5, dim=-2):
        trace = poutine.trace(pair).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (5, len(x))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.log_prob(x, trace.nodes["z"]["value"]))


def test_sampling_takes_one_pass_a_value_and_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4))
    passes = []
    model.network.register_forward_hook(lambda *_: passes.append(1))
    bars = []

    def bar(what: str, unit: str, total: int, places: range, progress: bool) -> range:
        bars.append((total, progress))
        return places

    monkeypatch.setattr("flowvae.models.likelihoods.autoregressive_distribution.bar", bar)
    torch.manual_seed(7)
    quiet = model.sample(5, progress=False)
    torch.manual_seed(7)
    assert torch.equal(model.sample(5), quiet)
    assert len(passes) == 2 * 3
    assert bars == [(3, False), (3, True)]


def test_its_likelihood_is_exact_and_has_units_and_a_standard_error() -> None:
    model, data = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4)), dataset(BinomialLikelihood(4))
    result = measure_flow(model, NoGuide(), data.test)
    assert result.draws == 0
    bound, bits = flow_metrics(result, 3, True, "test", data.identity.as_dict())
    expected = -model.log_prob(data.test).double() / (3 * math.log(2))
    assert (bits.name, bits.unit, bits.split) == ("bits_per_dim", "bits/dim", "test")
    assert bits.value == bound.value == pytest.approx(expected.mean().item())
    assert bits.se == pytest.approx(expected.std().item() / math.sqrt(len(data.test)))
    (alone,) = flow_metrics(measure_flow(model, NoGuide(), data.test[:1]), 3, False, "test", {})
    assert (alone.name, alone.unit, alone.se) == ("nll", "nats per datum", None)


def test_every_likelihood_has_a_head() -> None:
    assert default_autoregressive_likelihood(BernoulliLikelihood()) == AutoregressiveBernoulli()
    assert default_autoregressive_likelihood(BinomialLikelihood(3)) == AutoregressiveLogisticMixture()
    assert default_autoregressive_likelihood(CategoricalLikelihood(4)) == AutoregressiveLogisticMixture()
    assert default_autoregressive_likelihood(GaussianLikelihood()) == AutoregressiveGaussianMixture()
    model = Autoregressive(head=AutoregressiveCategorical()).build(Digits().load(0))
    assert model.head.parameters_each == 17


COUNTS = dataset(BinomialLikelihood(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m(), "give data x"),
        (lambda m: m(torch.zeros(2, 4)), r"\(2, 4\).*\(N, 1, 1, 3\)"),
        (lambda m: m.log_prob(torch.tensor([[[[0.0, 5.0, 1.0]]]])), r"value 5 \(1 such.* 0 to 4"),
        (lambda m: m.log_prob(torch.tensor([[[[0.0, 0.5, 1.0]]]])), r"value 0\.5"),
        (lambda m: m.log_prob(torch.tensor([[[[0.0, math.nan, 1.0]]]])), "value nan"),
        (lambda m: m.sample(0), "size = 0: must be 1 or more"),
        (lambda m: m.log_prob(torch.zeros(2, 1, 1, 3), torch.zeros(2, 1)), "takes none"),
        (lambda m: AutoregressiveModel(MADE().build(Size((3,)), 4), m.head, Size((3,))), "parameters = 5"),
        (
            lambda m: Autoregressive(head=AutoregressiveBernoulli()).build(COUNTS),
            r"binomial:4 data.*Use AutoregressiveLogisticMixture",
        ),
        (lambda m: Autoregressive(head=AutoregressiveGaussianMixture()).build(COUNTS), "binomial:4.*real numbers"),
        (lambda m: AutoregressiveLogisticMixture(0), r"AutoregressiveLogisticMixture\.components = 0"),
        (lambda m: Autoregressive(PixelCNN()).build(COUNTS.flat()), "needs images"),
        (lambda m: default_autoregressive_likelihood(PoissonLikelihood()), "poisson"),
    ],
)
def test_mistakes_are_named(make: object, message: str) -> None:
    model = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4))
    with pytest.raises(FlowvaeError, match=message):
        make(model)  # type: ignore[operator]


def test_contexts_of_another_number_are_refused() -> None:
    model = build(MADE((8,)), AutoregressiveCategorical(), BinomialLikelihood(4), context=2)
    with pytest.raises(FlowvaeError, match=r"\(3, 2\) for size = 4"):
        model.sample(4, torch.zeros(3, 2), progress=False)
