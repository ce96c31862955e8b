"""What every registered likelihood promises: densities that sum to one, means, draws, gradients, float32, VAEs.

A new family is tested by being registered: with its default settings, or with a total of 3. `VARIANTS` has the others.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import fields
from functools import cache
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec, Units, parse_likelihood
from flowvae.core.registry import _is_ours, families
from flowvae.guides import AmortizedGuide, Gaussian
from flowvae.inference import CompiledTrace_ELBO
from flowvae.models import VAE, Likelihood, StandardNormal
from flowvae.networks import MLP, Standardize

VARIANTS = (
    "gaussian:0.3",
    "gaussian:shared",
    "gaussian:each",
    "gaussian:optimal",
    "negative-binomial:each",
    "zero-inflated-negative-binomial:each",
    "discretized-logistic:3:scale=shared",
    "discretized-logistic:255",
    "logistic-mixture:255",
    "logistic-mixture:9:components=1",
    "pixelcnn:3:channels=8:layers=1",
    "pixelcnn:3:channels=8:layers=1:field=0",
)
DRAWS = 1000
LARGE = 40_000  # counts over which an unbounded family is summed


def default_text(name: str) -> str:
    family = families("likelihood")[name]
    return name if family.default is not None else f"{name}:3"


SPECS = [
    *(default_text(name) for name, family in families("likelihood").items() if _is_ours(family)),
    *VARIANTS,
]
SHAPES = ((5,), (2, 7), (1, 3, 4), (3, 4, 2))


def fits(spec: LikelihoodSpec, shape: tuple[int, ...]) -> bool:
    try:
        spec.parameter_shape(Size(shape))
    except FlowvaeError:
        return False
    return True


def has_few_counts(spec: LikelihoodSpec) -> bool:
    return spec.largest is not None and spec.largest < 10


each_spec = pytest.mark.parametrize("text", SPECS)
each_shape = pytest.mark.parametrize(
    ("text", "shape"),
    [(text, shape) for text in SPECS for shape in SHAPES if fits(parse_likelihood(text), shape)],
    ids=str,
)


def in_unit_interval(spec: LikelihoodSpec) -> bool:
    return bool(spec.violations(torch.tensor(2.0))) and not spec.discrete


def values(spec: LikelihoodSpec, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if spec.discrete:
        return torch.randint(0, (spec.largest or 6) + 1, shape, generator=generator).to(torch.get_default_dtype())
    if in_unit_interval(spec):
        return torch.rand(shape, generator=generator)
    return 3 + 2 * torch.randn(shape, generator=generator)


def built(spec: LikelihoodSpec, train: Tensor) -> Likelihood:
    torch.manual_seed(0)
    return spec.build(train.shape[1:], spec.units(train)).eval()  # type: ignore[return-value]


def smallest(spec: LikelihoodSpec) -> tuple[int, ...]:
    """The event shape of one value."""
    return (1,) if fits(spec, (1,)) else (1, 1, 1)


def grid_of(spec: LikelihoodSpec, likelihood: Likelihood, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Values (G, N, *event) of one number, and the logarithms of their weights in a sum or an integral, (G, N)."""
    event = (1,) * len(likelihood.shape)
    if spec.discrete:
        counts = torch.arange(0.0, (spec.largest or LARGE) + 1)
        x = counts.view(-1, 1, *event).expand(-1, len(parameters), *event)
        return x, torch.zeros(x.shape[:2])
    t = torch.linspace(-40, 40, 16001).view(-1, 1, *event)
    step = math.log(80 / 16000)
    if in_unit_interval(spec):
        x = torch.sigmoid(t).expand(-1, len(parameters), *event)
        slope = nn.functional.logsigmoid(t) + nn.functional.logsigmoid(-t)
        return x, (step + slope).expand_as(x).flatten(2).squeeze(-1)
    # fine near the mean, and far enough for heavy tails
    width = 1e-4 * likelihood.unit.mean()
    x = likelihood.mean(parameters) + width * torch.sinh(t)
    return x, (step + width.log() + torch.cosh(t).log()).expand_as(x).flatten(2).squeeze(-1)


@cache
def parameter_cases(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(12, width, generator=generator, dtype=torch.float64)
    return torch.cat((random[:6], 4 * random[6:], torch.zeros(1, width), torch.full((1, width), 30.0).double()))


def disturbed(likelihood: Likelihood, by: float) -> Likelihood:
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return likelihood


@each_spec
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("by", [0.0, 1.0, 4.0], ids=["start", "learned", "extreme"])
def test_densities_integrate_to_one_and_mean_and_draws_agree(text: str, by: float) -> None:
    spec = parse_likelihood(text)
    shape = smallest(spec)
    likelihood = disturbed(built(spec, values(spec, 50, *shape)), by)
    outputs = spec.parameter_shape(Size(shape))
    h = parameter_cases(outputs.numel()).view(-1, *outputs)
    unbounded = spec.discrete and spec.largest is None
    if unbounded:
        h = h.clamp(-5, 3)  # of larger rates the sum would take too many terms
    given = likelihood(h)
    x, log_weight = grid_of(spec, likelihood, h)
    log_p = given.log_prob(x)
    p = (log_p + log_weight).exp()
    total = p.sum(0)
    complete = total > 1 - 1e-3  # the sum over an overdispersed family may end too early
    assert complete[:6].all() or by == 4
    assert complete.all() or unbounded
    exact = 1e-3 if unbounded else 1e-6
    torch.testing.assert_close(total[complete], torch.ones_like(total)[complete], rtol=0, atol=exact)
    weights = p.view(*p.shape, *(1,) * len(shape))
    mean = (weights * x).sum(0)
    tail = 1e-2 if unbounded else 1e-5
    torch.testing.assert_close(likelihood.mean(h)[complete], mean[complete], rtol=tail, atol=2e-3)
    torch.manual_seed(2)
    draws = given.sample(Size((DRAWS,)))
    assert not spec.violations(draws).any()

    def bounded(x: Tensor) -> Tensor:
        return torch.tanh((x - mean) / likelihood.unit)

    # two statistics: log p, whose mean is the negative entropy, and one that tells left from right
    sides = bounded(draws).flatten(2)[..., 0], bounded(x).flatten(2)[..., 0]
    for found, each in ((given.log_prob(draws), log_p), sides):
        known = torch.where(p > 0, p * each, 0.0).sum(0)
        variance = (torch.where(p > 0, p * each.square(), 0.0).sum(0) - known.square()).clamp_min(0)
        error = (variance / DRAWS).sqrt()
        assert ((found.mean(0) - known).abs() <= 5 * error + 1e-3)[complete].all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("text", [text for text in SPECS if has_few_counts(parse_likelihood(text))])
def test_probabilities_of_a_colour_sum_to_one(text: str) -> None:
    """Jointly over the three channels, which may depend on each other; means and draws too."""
    spec = parse_likelihood(text)
    assert spec.largest is not None
    likelihood = disturbed(built(spec, values(spec, 50, 3, 1, 1)), 0.3)
    outputs = spec.parameter_shape(Size((3, 1, 1)))
    h = parameter_cases(outputs.numel()).view(-1, *outputs)
    x = torch.cartesian_prod(*[torch.arange(spec.largest + 1.0)] * 3).view(-1, 1, 3, 1, 1)
    p = likelihood(h).log_prob(x).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(len(h)))
    mean = (p[..., None, None, None] * x).sum(0)
    close = 2e-3 if spec.largest < 8 else 0.5  # quadrature over the colours before
    torch.testing.assert_close(likelihood.mean(h), mean, rtol=0, atol=close)
    torch.manual_seed(2)
    draws = likelihood(h).sample(Size((DRAWS,)))
    deviation = (p[..., None, None, None] * (x - mean).square()).sum(0).sqrt()
    assert ((draws.mean(0) - mean).abs() <= 5 * deviation / DRAWS**0.5 + 1e-3).all()
    blue, red = draws[:, :, 2, 0, 0], draws[:, :, 0, 0, 0]  # their dependence
    product = (p * (x[..., 2, 0, 0] * x[..., 0, 0, 0])).sum(0)
    assert ((blue * red).mean(0) - product).abs().max() <= 5 * spec.largest**2 / DRAWS**0.5


@each_shape
def test_a_likelihood_is_a_distribution_over_the_event_shape(text: str, shape: tuple[int, ...]) -> None:
    spec = parse_likelihood(text)
    train = values(spec, 50, *shape)
    likelihood = built(spec, train)
    outputs = torch.randn(6, *spec.parameter_shape(Size(shape)), generator=torch.Generator().manual_seed(1))
    given = likelihood(outputs)
    assert (given.batch_shape, given.event_shape) == ((6,), shape)
    draws = given.sample(Size((3,)))
    assert draws.shape == (3, 6, *shape)
    assert draws.dtype == train.dtype
    assert likelihood.mean(outputs).shape == (6, *shape)
    log_p = given.log_prob(draws)
    assert (log_p.shape, log_p.dtype) == ((3, 6), torch.float32)
    # more axes, and a batch of data under the parameters of one event
    folded = likelihood(outputs.unflatten(0, (2, 3))).log_prob(draws.unflatten(1, (2, 3)))
    torch.testing.assert_close(folded.flatten(1), log_p)
    torch.testing.assert_close(given.expand(Size((4, 6))).log_prob(draws[0])[1], log_p[0])
    one = likelihood(outputs[0]).log_prob(train[:6])
    torch.testing.assert_close(one, likelihood(outputs[:1].expand_as(outputs)).log_prob(train[:6]))
    assert likelihood(outputs[0]).expand(Size((2, 5))).sample().shape == (2, 5, *shape)
    if hasattr(given, "log_prob_repeated"):
        repeated = train[:3].repeat(2, *(1,) * len(shape))
        torch.testing.assert_close(given.log_prob_repeated(repeated, 3), given.log_prob(repeated))
    flat = Size((math.prod(shape),))
    if fits(spec, flat) and spec.parameter_shape(flat).numel() == outputs[0].numel():
        rows = built(spec, train.flatten(1))
        torch.testing.assert_close(rows(outputs.flatten(1)).log_prob(draws.flatten(2)), log_p)


@each_spec
def test_gradients_are_finite_at_the_extremes(text: str) -> None:
    """At the ends of the support and beyond the bounds of scales and rates."""
    spec = parse_likelihood(text)
    shape = smallest(spec)
    train = values(spec, 50, *shape)
    ends = torch.tensor([0.0, 1.0, float(spec.largest or 3)]) if spec.discrete or in_unit_interval(spec) else train[:3]
    ends = ends.clamp(max=1) if in_unit_interval(spec) else ends
    for by in (0.0, 50.0):
        likelihood = disturbed(built(spec, train), by)
        for size in (0.0, 1e-6, 1.0, 30.0, 1e3, 1e4):
            signs = torch.randn(40, *spec.parameter_shape(Size(shape))).sign()
            h = (size * signs).requires_grad_()
            loss = likelihood(h).log_prob(ends.view(-1, 1, *shape))
            assert loss.isfinite().all(), size
            leaves = [h, *likelihood.parameters()]
            for gradient in torch.autograd.grad(loss.sum(), leaves, allow_unused=True):
                assert gradient is None or gradient.isfinite().all(), size


@each_spec
def test_float32_is_close_to_float64(text: str) -> None:
    """To 1e-6 of a value's share of nats, and 3e-3 nats in an image of 784 values."""
    spec = parse_likelihood(text)
    shape = (1, 28, 28)
    train = values(spec, 20, *shape)
    likelihood = disturbed(built(spec, train), 0.1)
    h = torch.randn(20, *spec.parameter_shape(Size(shape)), generator=torch.Generator().manual_seed(3))
    found = likelihood(h).log_prob(train)
    exact = copy.deepcopy(likelihood).double()(h.double()).log_prob(train.double())
    assert exact.dtype == torch.float64
    assert ((found - exact).abs() <= 3e-3 + 1e-6 * exact.abs()).all()


@each_spec
def test_everything_is_on_the_device_of_the_parameters(text: str) -> None:
    """Tensors on torch's device without memory refuse operations with tensors on any other."""
    spec = parse_likelihood(text)
    for shape in ((1, 3, 4), (3, 3, 4)):
        likelihood = built(spec, values(spec, 20, *shape)).to("meta")
        h = torch.zeros(20, *spec.parameter_shape(Size(shape)), device="meta")
        with pyro.validation_enabled(False):
            assert likelihood(h).log_prob(torch.zeros(20, *shape, device="meta")).device.type == "meta"
            assert likelihood.mean(h).device.type == "meta"


@each_spec
def test_its_state_holds_the_units(text: str) -> None:
    """A run is opened without its data: units come with the weights."""
    spec = parse_likelihood(text)
    shape = smallest(spec)
    train = values(spec, 50, *shape)
    likelihood = disturbed(built(spec, train), 0.5)
    empty = Units(*(torch.ones_like(part) for part in spec.units(train)))
    again: Any = spec.build(Size(shape), empty)
    again.load_state_dict(likelihood.state_dict())
    h = torch.randn(50, *spec.parameter_shape(Size(shape)))
    torch.testing.assert_close(again.eval()(h).log_prob(train), likelihood(h).log_prob(train))


def vae(spec: LikelihoodSpec, train: Tensor) -> tuple[VAE, AmortizedGuide]:
    units = spec.units(train)
    shape = Size(train.shape[1:])
    torch.manual_seed(0)
    decoder = MLP((16,)).build(Size((2,)), spec.parameter_shape(shape))
    model = VAE(StandardNormal().build(2), decoder, spec.build(shape, units))
    encoder = nn.Sequential(Standardize(*units), MLP((16,)).build(shape))
    return model, AmortizedGuide(encoder, Gaussian().build(2, 16))


@each_shape
def test_it_trains_a_vae(text: str, shape: tuple[int, ...]) -> None:
    """The first loss is that of a plain guess, the next ones fall, and what is drawn lies in the support."""
    spec = parse_likelihood(text)
    train = values(spec, 60, *shape)
    model, guide = vae(spec, train)
    pyro.set_rng_seed(0)
    first = Trace_ELBO().loss(model, guide, train) / train.numel()
    guess = math.log(spec.largest + 1.0) if spec.largest else 5.0
    assert first < guess + (30 if "0.3" in text else 0.6)  # a fixed scale may be far too small
    svi = SVI(model, guide, Adam({"lr": 1e-2}), loss=Trace_ELBO())
    for _ in range(20):
        svi.step(train)
    model.eval()
    pyro.set_rng_seed(0)
    assert Trace_ELBO().loss(model, guide, train) / train.numel() < first
    drawn = Predictive(model, num_samples=2)(None, None, 5)["x"]
    assert drawn.shape == (2, 5, *shape)
    assert not spec.violations(drawn).any()
    assert model.mean(torch.zeros(7, 2)).shape == (7, *shape)


@each_spec
def test_a_captured_step_is_pyro_s_own(text: str) -> None:
    spec = parse_likelihood(text)
    train = values(spec, 20, *(3, 4, 2))
    pair = vae(spec, train)
    again = copy.deepcopy(pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one says that a program could not be captured
        for loss, (model, guide) in ((Trace_ELBO(), pair), (CompiledTrace_ELBO(), again)):
            pyro.set_rng_seed(1)
            svi = SVI(model, guide, Adam({"lr": 1e-2}), loss=loss)
            for _ in range(6):
                svi.step(train)
    for one, other in zip(pair[0].state_dict().items(), again[0].state_dict().items(), strict=True):
        torch.testing.assert_close(other[1], one[1], rtol=1e-3, atol=1e-4, msg=one[0])


@each_spec
def test_its_text_form_is_read(text: str) -> None:
    spec = parse_likelihood(text)
    assert str(spec) == text
    assert parse_likelihood(str(spec)) == spec
    assert type(spec)(**{f.name: getattr(spec, f.name) for f in fields(spec)}) == spec  # type: ignore[arg-type]
