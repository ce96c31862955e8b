"""The check of a flow of one's own finds the slips that it is there to find, and passes what is right."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.lazy import LazyDistribution, LazyTransform

from flowvae import (
    MAF,
    NSF,
    Experiment,
    FlowDecoder,
    FlowGuide,
    FlowvaeError,
    Inverse,
    PriorSpec,
    RealNVP,
    Training,
)
from flowvae.core.errors import EstimatedDensityWarning
from flowvae.experiments.stages import SecondStage
from flowvae.flows import BPF, Cost, FlowSpec, Planar, Residual, check_flow
from flowvae.flows.check import check_own_flows


class Slopes(Transform):
    """One slope for negative numbers, another one for positive ones."""

    domain = codomain = constraints.real
    bijective = True

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.left, self.right = left, right

    def _call(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, self.right, self.left).exp() * x

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.where(y > 0, -self.right, -self.left).exp() * y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x > 0, self.right, self.left)


class NoLogDet(Slopes):
    log_abs_det_jacobian = Transform.log_abs_det_jacobian


class NoWayBack(Slopes):
    _inverse = Transform._inverse


class ZeroLogDet(Slopes):
    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)


class WrongSign(Slopes):
    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -super().log_abs_det_jacobian(x, y)


class SummedTwice(Slopes):
    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(x, y).sum(-1)


class Folds(Slopes):
    def _call(self, x: Tensor) -> Tensor:
        return super()._call(x).abs()


class Infinite(Slopes):
    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__(left.log(), right)


@dataclass(frozen=True)
class Own(FlowSpec):
    title = "own"
    paper = "own"
    kind: Any = Slopes

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        return ElementWiseTransform(features, context, univariate=self.kind, shapes=[(), ()])

    def cost(self, features: int) -> Cost:
        return Cost(1, 1, 1)


class Bare(Own):
    def transform(self, features: int, context: int = 0) -> LazyTransform:
        return Slopes(torch.zeros(features), torch.zeros(features))  # type: ignore[return-value]


class NoContext(Own):
    def transform(self, features: int) -> LazyTransform:  # type: ignore[override]
        return super().transform(features)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("flow", [Own(), Inverse(Own()), MAF(), NSF(), RealNVP(), BPF(), Planar()], ids=repr)
def test_right_flows_pass(flow: FlowSpec, context: int) -> None:
    for seed in range(2):
        check_flow(flow, 4, context, seed)


class Estimated(Slopes):
    """A log-determinant that is drawn, with a mean that is right or not."""

    bias = 0.0

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        right = super().log_abs_det_jacobian(x, y)
        return right + self.bias + 0.3 * torch.randn_like(right)


class Biased(Estimated):
    bias = 0.5


def test_a_log_determinant_that_is_drawn_is_judged_by_its_mean() -> None:
    for seed in range(3):
        check_flow(Own(Estimated), 4, seed=seed)
        with pytest.warns(EstimatedDensityWarning):
            check_flow(Residual(), 12, seed=seed)
        with pytest.raises(FlowvaeError, match="log_abs_det_jacobian"):
            check_flow(Own(Biased), 4, seed=seed)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (Own(NoLogDet), "method log_abs_det_jacobian is missing"),
        (Own(NoWayBack), "method _inverse is missing"),
        (Own(ZeroLogDet), r"0 where automatic differentiation finds .* nats"),
        (Own(WrongSign), "log_abs_det_jacobian"),
        (Own(SummedTwice), r"log-determinants of shape .*must be \(16, 4\) and \(16,\)"),
        (Own(Folds), "must be a bijection"),
        (Own(Infinite), "not finite.*tanh"),
        (Own(lambda left: Slopes(left, left)), "TypeError: .*positional argument"),
        (Bare(), "must be a zuko LazyTransform"),
        (NoContext(), r"transform\(features, context\): TypeError"),
    ],
)
def test_each_slip_is_named(flow: FlowSpec, message: str) -> None:
    with pytest.raises(FlowvaeError, match=f"(?s){message}"):
        check_flow(flow, 4)


@dataclass(frozen=True)
class Holder(PriorSpec):
    """A part with two flows inside, one of them of a user's own."""

    first: FlowSpec = field(default_factory=MAF)
    second: FlowSpec = field(default_factory=lambda: Inverse(Own(ZeroLogDet)))

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return self.first.build(features, context)


def test_an_own_flow_is_found_in_every_part() -> None:
    wrong = Own(ZeroLogDet)
    holders: tuple[Any, ...] = (Experiment(prior=wrong), Inverse(wrong), FlowGuide(Inverse(wrong)), FlowDecoder(wrong))
    for holder in (*holders, Holder(), Holder(Inverse(wrong), MAF())):
        with pytest.raises(FlowvaeError, match="log_abs_det_jacobian"):
            check_own_flows(holder, 4)
    check_own_flows(FlowGuide(Own()), 4)
    check_own_flows(Holder(Own(), Inverse(Own())), 4)


def test_a_flow_in_a_guide_is_tried_with_the_context_that_it_reads() -> None:
    tried = []

    @dataclass(frozen=True)
    class Noted(Own):
        def transform(self, features: int, context: int = 0) -> LazyTransform:
            tried.append(context)
            return super().transform(features, context)

    check_own_flows(FlowGuide(Noted(), context=3), 4)
    check_own_flows(FlowGuide(Noted(), context=3, conditioned=False), 4)
    assert (tried[0], tried[-1]) == (3, 0)


def test_a_wrong_flow_trains_nothing_and_leaves_no_directory(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Wrong(MAF, name="wrong"):
        def transform(self, features: int, context: int = 0) -> LazyTransform:
            return Own(ZeroLogDet).transform(features, context)

    plain = Experiment(latent=2, inference=Training(epochs=1, device="cpu"))
    after = replace(plain, prior=Wrong(), second_stage=SecondStage(MAF()))  # its first stage has the wrong flow
    for wrong in (
        replace(plain, prior=Wrong()),
        replace(plain, guide=FlowGuide(Inverse(Wrong()))),
        replace(plain, decoder=FlowDecoder(Wrong())),
        after,
    ):
        with pytest.raises(FlowvaeError, match="log_abs_det_jacobian"):
            wrong.run(tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_the_check_leaves_the_random_stream_where_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_flow(MAF(), 3)
    assert torch.equal(torch.rand(4), expected)
