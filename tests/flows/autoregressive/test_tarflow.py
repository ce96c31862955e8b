"""The transformer flow: what its parameters depend on, its cache, its tokens, and its place in an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import disturb
from resume_cases import check_resumes, small
from torch import Tensor
from zuko.transforms import AutoregressiveTransform, Transform

from flowvae import FlowGuide, FlowvaeError, Inverse, TarFlow, load
from flowvae.cli.command import main
from flowvae.flows.layers.causal_transformer import CausalTransformer

SPECS = {
    "single": (TarFlow(), 6),
    "pairs": (TarFlow(token=2), 6),
    "ragged": (TarFlow(token=3, layers=2), 8),
    "default-of-40": (TarFlow(width=8), 40),
}
each = pytest.mark.parametrize(("spec", "features"), SPECS.values(), ids=SPECS.keys())
float64 = pytest.mark.usefixtures("float64")


def parts(spec: TarFlow, features: int, context: int = 0, by: float = 0.3) -> list[Any]:
    """The transforms of a disturbed flow, one after the other."""
    lazy = spec.transform(features, context)
    disturb(lazy, by)
    return list(lazy(torch.randn(context) if context else None).transforms)


def jacobian(transform: Transform, z: Tensor) -> Tensor:
    found: Tensor = torch.autograd.functional.jacobian(transform, z)
    return found


@float64
@pytest.mark.parametrize("context", [0, 2])
def test_the_network_of_a_transform_is_causal(context: int) -> None:
    """The outputs of a token depend on all tokens before it and on no other, by autograd."""
    network = CausalTransformer(5, 2, 3, context, width=8, layers=2, heads=2)
    disturb(network, 0.5)
    shift = network.embed(torch.randn(context) if context else None)
    found = torch.autograd.functional.jacobian(lambda x: network(x, shift), torch.randn(5, 2))
    depends = (found != 0).any(1).any(-1)
    assert torch.equal(depends, torch.ones(5, 5, dtype=torch.bool).tril(-1))


@float64
@each
def test_a_value_depends_on_itself_and_the_tokens_before(spec: TarFlow, features: int) -> None:
    tokens, size = spec.sizes(features)
    value = torch.arange(features)
    orders = (value // size, tokens - 1 - value % tokens)  # neighbours first, then values T apart in reversed order
    for transform, order in zip(parts(spec, features), orders, strict=True):
        expected = (order[:, None] > order) | torch.eye(features, dtype=torch.bool)
        assert torch.equal(jacobian(transform, torch.randn(features)) != 0, expected)


@float64
@each
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_draw_with_the_cache_is_a_draw_without_it(spec: TarFlow, features: int, shape: tuple[int, ...]) -> None:
    for context in (0, 2):
        for transform in parts(spec, features, context):
            u = torch.randn(*shape, features)
            cached = transform.inv(u)
            passes = AutoregressiveTransform(transform.meta, transform.passes)
            torch.testing.assert_close(cached, passes.inv(u))
            torch.testing.assert_close(transform(cached), u)


@float64
def test_a_step_computes_one_token() -> None:
    """The cost of T steps is that of T tokens, not of T passes: rows that the perceptrons see."""
    lazy = TarFlow(transforms=1).transform(8)
    rows = 0

    def count(_: object, inputs: tuple[Tensor]) -> None:
        nonlocal rows
        rows += inputs[0][..., 0].numel()

    lazy.transforms[0].network.layers[0].perceptron.register_forward_pre_hook(count)
    lazy().inv(torch.randn(5, 8))
    assert rows == 5 * 8


@float64
@each
def test_log_determinants_of_tokens_of_any_size(spec: TarFlow, features: int) -> None:
    lazy = spec.transform(features, context=2)
    disturb(lazy, 0.3)
    transform = lazy(torch.randn(2))
    z = torch.randn(features)
    truth = torch.linalg.slogdet(jacobian(transform, z))[1]
    torch.testing.assert_close(transform.call_and_ladj(z)[1], truth)


@float64
def test_every_value_depends_on_the_context() -> None:
    """The first token too, whose map depends on no other value."""
    lazy = TarFlow(transforms=1).transform(5, context=2)
    disturb(lazy, 0.3)
    z = torch.randn(5)
    found = torch.autograd.functional.jacobian(lambda c: lazy(c)(z), torch.randn(2))
    assert (found != 0).all()


def test_values_of_one_token_learn_their_correlation() -> None:
    """Of two independent pairs with correlation ±0.9: neighbours as tokens alone would leave 1.66 nats."""
    torch.manual_seed(0)
    factor = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.436, 0, 0], [0, 0, 1.0, 0], [0, 0, -0.9, 0.436]])
    truth = torch.distributions.MultivariateNormal(torch.zeros(4), scale_tril=factor)
    flow = TarFlow(token=2, width=8).build(4)
    optim = torch.optim.Adam(flow.parameters(), 3e-2)
    for step in range(120):
        optim.param_groups[0]["lr"] = 3e-2 * (1 - step / 120)
        optim.zero_grad()
        (-flow().log_prob(truth.sample((64,)))).mean().backward()
        optim.step()
    z = truth.sample((4000,))
    gap = (truth.log_prob(z) - flow().log_prob(z)).mean()
    assert 0 <= gap < 0.3


def test_wrong_settings_are_refused() -> None:
    for make, words in (
        (lambda: TarFlow(width=10, heads=4), ("10", "4")),
        (lambda: TarFlow(token=0), ("token = 0",)),
        (lambda: TarFlow(layers=0), ("layers = 0",)),
        (lambda: TarFlow(token=5).transform(5), ("token = 5", "latent = 5", "2")),
        (lambda: TarFlow().transform(1), ("latent = 1",)),
    ):
        with pytest.raises(FlowvaeError) as refused:
            make()
        assert "\n" not in str(refused.value)
        assert all(word in str(refused.value) for word in words)


def test_the_command_line_trains_fits_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.experiments.train.draw_figures", lambda *_, **__: [])
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    quick = ["--inference.epochs", "2", "--inference.device", "cpu", "--draws", "5"]
    data = ["data:pinwheel", "--data.train", "200", "--data.valid", "50", "--data.test", "50", "--latent", "3"]
    assert (
        main(["train", "--out", one, "prior:tarflow", "--prior.token", "1", "guide:inverse-tarflow", *data, *quick])
        == 0
    )
    opened = load(one)
    assert opened.experiment.prior == TarFlow(token=1)
    assert opened.experiment.guide == FlowGuide(Inverse(TarFlow()))
    assert main(["fit-prior", one, "--out", two, "prior:tarflow", "--prior.transforms", "1", *quick]) == 0
    assert load(two).experiment.last_prior == TarFlow(transforms=1)


@pytest.mark.parametrize("condition", [False, True], ids=["plain", "conditional"])
def test_it_resumes_bit_for_bit(condition: bool, tmp_path: Path) -> None:
    check_resumes(small(condition, prior=TarFlow(token=3)), tmp_path)
