"""The autoregressive prior of sequences: its closed form, its mass, its sampler, and its place in an experiment."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers import disturb
from resume_cases import check_resumes, small
from scipy.stats import ks_2samp
from torch import Size, Tensor
from torch.distributions import MultivariateNormal

from flowvae import MAF, FlowvaeError, SequencePrior, load
from flowvae.cli.command import main
from flowvae.models.priors.sequence import LazySequence

SHAPES = [Size((6,)), Size((5, 3)), Size((2, 3, 4))]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
float64 = pytest.mark.usefixtures("float64")


def built(shape: Size, context: int = 0, by: float = 0.3, **settings: object) -> LazySequence:
    """A prior away from its start."""
    lazy = SequencePrior(**settings).build(shape, context)  # type: ignore[arg-type]
    disturb(lazy, by)
    assert isinstance(lazy, LazySequence)
    return lazy


@float64
@pytest.mark.parametrize("numbers", [1, 2])
def test_with_the_weights_of_an_autoregression_it_is_a_gaussian(numbers: int) -> None:
    """z_t = A z_{t−1} + s ε: log N(z; 0, s² (I − L)⁻¹ (I − L)⁻ᵀ) in closed form, L the lagged A.

    tanh is linear near zero, the other gate is open, and ReLU(h) − ReLU(−h) = h.
    """
    steps, small_, s = 6, 1e-5, 0.6
    a = torch.tensor([[0.8]]) if numbers == 1 else torch.tensor([[0.6, -0.5], [0.3, 0.7]])
    lazy = SequencePrior(components=1, channels=2 * numbers, dilations=(1,)).build(Size((steps, numbers)))
    assert isinstance(lazy, LazySequence)
    with torch.no_grad():
        for parameter in lazy.parameters():
            parameter.zero_()
        network = lazy.network
        both = torch.cat((torch.eye(numbers), -torch.eye(numbers)))  # h and −h
        network.input.weight[:, :, 0] = small_ * both
        layer = network.layers[0]
        layer.convolution.weight[: 2 * numbers, :, -1] = torch.eye(2 * numbers)
        layer.convolution.bias[2 * numbers :] = 50.0
        layer.skip.weight[..., 0] = torch.eye(2 * numbers)
        network.output[1].weight[..., 0] = torch.eye(2 * numbers)
        network.output[3].weight[1 : 1 + numbers, :, 0] = a @ both.mT / small_
        network.output[3].bias[1 + numbers :] = math.log(s) / (1 + math.log(s) / 7)
    whole = torch.eye(steps * numbers)
    for t in range(1, steps):
        whole[t * numbers : (t + 1) * numbers, (t - 1) * numbers : t * numbers] = -a
    truth = MultivariateNormal(torch.zeros(steps * numbers), scale_tril=s * torch.linalg.inv(whole))
    z = truth.sample((20,))
    torch.testing.assert_close(lazy().log_prob(z), truth.log_prob(z), rtol=1e-7, atol=1e-7)
    draws = lazy().sample((20_000,))
    torch.testing.assert_close(draws.T.cov(), truth.covariance_matrix, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [Size((2,)), Size((1, 2)), Size((2, 1)), Size((1, 1, 2)), Size((2, 1, 1))], ids=str)
@pytest.mark.parametrize("components", [1, 3])
def test_it_integrates_to_one_and_draws_from_its_density(shape: Size, components: int) -> None:
    lazy = built(shape, 1, by=0.2, components=components, channels=4, dilations=(1,))
    distribution = lazy(torch.tensor([0.7]))
    drawn = distribution.sample((4000,))
    side = torch.linspace(-1, 1, 301) * (1.5 * drawn.abs().max() + 1)
    cell = side[1] - side[0]
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = distribution.log_prob(grid).exp()
    assert density.sum().item() * cell**2 == pytest.approx(1, abs=2e-3)
    from_density = grid[torch.multinomial(density, 4000, replacement=True)] + (torch.rand(4000, 2) - 0.5) * cell
    for direction in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.7, -0.7])):
        assert ks_2samp((drawn @ direction).numpy(), (from_density @ direction).numpy()).pvalue > 1e-3


@float64
@each_shape
def test_a_step_depends_on_the_steps_before_within_the_receptive_field(shape: Size) -> None:
    spec = SequencePrior(dilations=(1, 2), channels=8)
    lazy = built(shape, dilations=(1, 2), channels=8)
    steps = lazy.network.features

    def parameters(z: Tensor) -> Tensor:
        return lazy.network.sequences(lazy.steps(z[None]), None)[0]

    found = torch.autograd.functional.jacobian(parameters, torch.randn(shape.numel())) != 0
    depends = lazy.steps(found.any(1)).any(-1)
    expected = torch.ones(steps, steps, dtype=torch.bool).tril(-1).triu(-spec.receptive_field)
    assert spec.receptive_field == 4
    assert torch.equal(depends, expected)


@float64
@each_shape
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("context", [0, 2])
def test_steps_with_the_cache_are_one_pass(shape: Size, kernel: int, context: int) -> None:
    lazy = built(shape, context, kernel=kernel, dilations=(1, 2, 3))
    z = lazy.steps(torch.randn(4, shape.numel()))
    c = torch.randn(4, context) if context else None
    before, cache = torch.zeros_like(z[:, 0]), [[] for _ in lazy.network.layers]  # type: ignore[var-annotated]
    found = []
    for place in range(z.shape[1]):
        found.append(lazy.network.step(place, before, c, cache))
        before = z[:, place]
    torch.testing.assert_close(torch.stack(found, 1), lazy.network.sequences(z, c))


def test_a_draw_takes_one_step_of_the_network_for_each_step_of_the_code() -> None:
    lazy = built(Size((7, 2)))
    rows: list[int] = []
    lazy.network.output.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0][:, 0].numel()))
    assert lazy().sample((5,)).shape == (5, 14)
    assert rows == [5] * 7


@float64
@each_shape
def test_a_code_keeps_its_order(shape: Size) -> None:
    lazy = built(shape)
    z = torch.randn(3, shape.numel())
    assert torch.equal(lazy.code(lazy.steps(z)), z)
    if len(shape) == 3:  # a step is a position, with all channels
        assert torch.equal(lazy.steps(z)[:, 5], z.view(3, *shape)[:, :, 1, 1])


@each_shape
def test_it_starts_near_the_standard_normal(shape: Size) -> None:
    z = torch.randn(5, shape.numel())
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    for context in (0, 2):
        c = torch.randn(5, context) if context else None
        torch.testing.assert_close(SequencePrior(components=1).build(shape, context)(c).log_prob(z), normal)
    draws = SequencePrior(components=40).build(shape)().sample((4000,))
    assert draws.mean().abs() < 0.2  # the centres are drawn
    assert draws.var().item() == pytest.approx(1, abs=0.25)


@float64
def test_batches_of_contexts_and_gradients() -> None:
    lazy = built(Size((3, 2)), 2)
    c, z = torch.randn(4, 2), torch.randn(5, 4, 6, requires_grad=True)
    log_p = lazy(c).log_prob(z)
    assert log_p.shape == (5, 4)
    torch.testing.assert_close(log_p[3, 2], lazy(c[2]).log_prob(z[3, 2]))
    assert lazy(c).expand(Size((7, 4))).sample().shape == (7, 4, 6)
    assert torch.autograd.gradgradcheck(lambda z: lazy(c[0]).log_prob(z), (z[0, :1],))
    log_p.sum().backward()
    for name, parameter in lazy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    extreme = lazy(c[0]).log_prob(torch.full((6,), 1e4))
    assert extreme.isfinite()


def test_the_command_line_trains_fits_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.experiments.train.draw_figures", lambda *_, **__: [])
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    quick = ["--inference.epochs", "2", "--inference.device", "cpu", "--draws", "5"]
    data = ["data:pinwheel", "--data.train", "200", "--data.valid", "50", "--data.test", "50", "--latent", "3", "2"]
    assert main(["train", "--out", one, "prior:sequence", "--prior.dilations", "1", "2", *data, *quick]) == 0
    opened = load(one)
    assert opened.experiment.prior == SequencePrior(dilations=(1, 2))
    assert opened.sample(3).shape == (3, 16)
    assert main(["fit-prior", one, "--out", two, "prior:sequence", "--prior.components", "2", *quick]) == 0
    assert load(two).experiment.last_prior == SequencePrior(components=2)


@pytest.mark.parametrize("condition", [False, True], ids=["plain", "conditional"])
def test_it_resumes_bit_for_bit(condition: bool, tmp_path: Path) -> None:
    check_resumes(small(condition, latent=(3, 2), prior=SequencePrior(channels=8)), tmp_path)


def test_wrong_settings_are_refused() -> None:
    for make, words in (
        (lambda: SequencePrior(components=0), "components = 0"),
        (lambda: SequencePrior(dilations=()), "dilations"),
        (lambda: SequencePrior(kernel=1), "kernel = 1"),
        (lambda: SequencePrior().build(Size((2, 3, 4, 5))), r"\(2, 3, 4, 5\).*\(C, H, W\)"),
    ):
        with pytest.raises(FlowvaeError, match=words):
            make()


def test_on_correlated_sequences_it_is_near_an_autoregressive_flow() -> None:
    """Fitted to the same AR(1) draws, both come near the entropy."""
    torch.manual_seed(0)
    phi, s, steps = 0.9, 0.3, 8
    lag = torch.eye(steps) - phi * torch.diag(torch.ones(steps - 1), -1)
    truth = MultivariateNormal(torch.zeros(steps), scale_tril=s * torch.linalg.inv(lag))
    z = truth.sample((4000,))
    gaps = []
    for spec in (SequencePrior(components=1, channels=8, dilations=(1,)), MAF(1, (16,))):
        lazy = spec.build(steps)
        optim = torch.optim.Adam(lazy.parameters(), 2e-2)
        for _ in range(120):
            optim.zero_grad()
            (-lazy().log_prob(truth.sample((128,)))).mean().backward()
            optim.step()
        gaps.append((truth.log_prob(z) - lazy().log_prob(z)).mean().item())
    assert max(gaps) < 0.25
    assert (
        truth.log_prob(z).mean() - MultivariateNormal(torch.zeros(steps), z.T.cov().diag().diag()).log_prob(z).mean()
        > 2
    )
