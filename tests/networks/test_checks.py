"""Models, guides and measures refuse what is not a batch of data; the message says what there was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Size, Tensor, nn

from flowvae import Digits, Experiment, FlowGuide, FlowvaeError, RealNVP
from flowvae.evaluation import (
    AggregatedPosterior,
    AnnealedHMC,
    draw_codes,
    importance_draws,
    importance_sample_each,
    measure_activity,
    measure_ais,
    measure_classifier,
    measure_flow,
    measure_gaps,
    measure_holes,
    measure_interpolation,
    measure_iwae,
    measure_likelihoods,
    measure_mmd,
    measure_prior_overfitting,
    measure_surgery,
    to_arviz,
)
from flowvae.guides import FlowNoise, UniformNoise
from flowvae.inference import Training, fit, refine
from flowvae.models import Autoregressive, DequantizedFlow, FlowModel, LinearGaussian
from flowvae.networks import MADE, MLP, Conv, Standardize, check_data, check_event_shape, input_shape

DATA = Digits().load(0).flat()
X = DATA.test[:50]
MODEL, GUIDE = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,))).build(DATA)
FLOW = FlowModel(RealNVP(hidden_features=(8,)).transform(64), 64)
COUNTS = DequantizedFlow(RealNVP(hidden_features=(8,)).transform(64), 64, 16)
NOISE = FlowNoise(nn.Linear(64, 4), RealNVP(hidden_features=(8,)), 64, 4)
FEW = Training(epochs=1, device="cpu")

WRONG: dict[str, Tensor] = {
    "one data point": X[0],
    "one column": X[:, :1],
    "half of the columns": X[:, :32],
    "images": X.unflatten(1, (8, 8)),
    "no data": X[:0],
    "whole numbers": X.long(),
    "float64": X.double(),
}
CALLS: dict[str, Callable[[Any], object]] = {
    "check_data": lambda x: check_data("x", x, 64, MODEL),
    "VAE": MODEL,
    "guide": GUIDE,
    "FlowModel": FLOW,
    "DequantizedFlow": COUNTS,
    "LinearGaussian": LinearGaussian(torch.ones(64, 2), torch.zeros(64), 1.0),
    "Autoregressive": Autoregressive(MADE((8,))).build(DATA),
    "FlowNoise": NOISE,
    "fit": lambda x: fit(MODEL, GUIDE, x, x, FEW, progress=False),
    "refine": lambda x: refine(MODEL, GUIDE, x, steps=1),
    "importance_draws": lambda x: next(importance_draws(MODEL, GUIDE, x, 2, 0)),
    "measure_likelihoods": lambda x: measure_likelihoods(MODEL, GUIDE, x, 2),
    "measure_iwae": lambda x: measure_iwae(MODEL, GUIDE, x, (1, 2)),
    "importance_sample_each": lambda x: importance_sample_each(MODEL, GUIDE, x, 30),
    "to_arviz": lambda x: to_arviz(MODEL, GUIDE, x, 2),
    "measure_ais": lambda x: measure_ais(MODEL, GUIDE, x, AnnealedHMC(2, 1)),
    "measure_gaps": lambda x: measure_gaps(MODEL, GUIDE, x, steps=1, draws=2, tempering=AnnealedHMC(2, 1)),
    "draw_codes": lambda x: draw_codes(GUIDE, x, 1, 0),
    "AggregatedPosterior": lambda x: AggregatedPosterior(GUIDE, x),
    "measure_surgery": lambda x: measure_surgery(MODEL, GUIDE, x),
    "measure_prior_overfitting": lambda x: measure_prior_overfitting(MODEL, GUIDE, x, X),
    "measure_holes": lambda x: measure_holes(MODEL, GUIDE, X, x, quantile=0.2, draws=50),
    "measure_activity": lambda x: measure_activity(MODEL, GUIDE, x, 2),
    "measure_mmd": lambda x: measure_mmd(MODEL, GUIDE, x),
    "measure_classifier": lambda x: measure_classifier(MODEL, GUIDE, x),
    "measure_interpolation": lambda x: measure_interpolation(MODEL, GUIDE, x, x, steps=2),
    "measure_flow": lambda x: measure_flow(COUNTS, UniformNoise(), x, 2),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_a_batch_of_data_is_refused(name: str, wrong: str) -> None:
    x = WRONG[wrong]
    with pytest.raises(FlowvaeError) as caught:
        CALLS[name](x)
    text = str(caught.value)
    if name not in ("VAE", "guide", "measure_flow"):  # to what comes through its own handlers Pyro adds shapes
        assert len(text.splitlines()) == 1
    if x.dtype != torch.float32:
        assert str(x.dtype) in text
    else:
        # measure_flow repeats the data for every draw
        shape = tuple(x.shape[1:] if name == "measure_flow" and x.ndim > 1 else x.shape)
        assert ", ".join(map(str, shape)) in text or (not len(x) and " 0" in text)


@pytest.mark.parametrize("name", CALLS)
def test_data_are_accepted(name: str) -> None:
    CALLS[name](X)


def test_an_array_is_not_a_tensor() -> None:
    with pytest.raises(FlowvaeError, match=r"x = .*\(50, 64\).*tensor"):
        measure_likelihoods(MODEL, GUIDE, X.numpy(), 2)  # type: ignore[arg-type]


IMAGE = Size((1, 2, 3))


@pytest.mark.parametrize(
    ("x", "shape", "values"),
    [
        (torch.zeros(64), Size((64,)), ["(64,)", "(N, 64)", "x[None]"]),
        (torch.zeros(64), 64, ["(64,)", "(N, 64)", "x[None]"]),
        (torch.zeros(64), None, ["(64,)", "x[None]"]),
        (torch.zeros(()), None, ["()"]),
        (torch.zeros(IMAGE), IMAGE, ["(1, 2, 3)", "(N, 1, 2, 3)", "x[None]"]),
        (torch.zeros(5, 6), IMAGE, ["(5, 6)", "(N, 1, 2, 3)", "x.reshape(-1, 1, 2, 3)"]),
        (torch.zeros(5, *IMAGE), Size((6,)), ["(5, 1, 2, 3)", "(N, 6)", "x.reshape(-1, 6)"]),
        (torch.zeros(5, 2, 3), IMAGE, ["(5, 2, 3)", "x.reshape(-1, 1, 2, 3)"]),
        (torch.zeros(5, 4), IMAGE, ["(5, 4)", "(N, 1, 2, 3)"]),
        (torch.zeros(5, 1, 3, 2), IMAGE, ["(5, 1, 3, 2)", "(N, 1, 2, 3)"]),
        (torch.zeros(5, 1), Size((4,)), ["(5, 1)", "(N, 4)"]),
        (torch.zeros(0, *IMAGE), IMAGE, ["(0, 1, 2, 3)"]),
        (torch.zeros(5, *IMAGE, dtype=torch.uint8), IMAGE, ["uint8", "x.float()"]),
        ([[0.0]], None, ["[[0.0]]", "torch.as_tensor"]),
    ],
)
def test_shape_rule_and_remedy(x: object, shape: Size | int | None, values: list[str]) -> None:
    with pytest.raises(FlowvaeError) as caught:
        check_data("x", x, shape)
    assert all(value in str(caught.value) for value in values)
    if "reshape" not in values[-1]:
        assert "reshape" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (torch.zeros(1, 64), 64),
        (torch.zeros(3, *IMAGE), IMAGE),
        (torch.zeros(3, *IMAGE), None),
        (torch.zeros(2, 2), Size((2,))),
        (torch.zeros(3, 2).double(), None),
    ],
)
def test_data_are_returned_as_they_are(x: Tensor, shape: Size | int | None) -> None:
    assert check_data("x", x, shape) is x


def test_data_are_of_the_type_of_the_parameters() -> None:
    module, x = nn.Linear(2, 1), torch.zeros(3, 2)
    assert check_data("x", x, 2, module) is x
    assert check_data("x", x.double(), 2, module.double()).dtype == torch.float64
    with pytest.raises(FlowvaeError, match=r"torch\.float32; .*torch\.float64.*x\.to\(torch\.float64\)"):
        check_data("x", x, 2, module)
    assert check_data("x", x, 2, nn.Identity()) is x


@pytest.mark.parametrize("leading", [(), (3,), (4, 3), (0,)], ids=str)
def test_the_event_shape_of_data_with_any_leading_axes(leading: tuple[int, ...]) -> None:
    check_event_shape("x", torch.zeros(*leading, *IMAGE), IMAGE)
    with pytest.raises(FlowvaeError, match=r"2, 2\).*\(N, 1, 2, 3\)"):
        check_event_shape("x", torch.zeros(*leading, 1, 2, 2), IMAGE)
    with pytest.raises(FlowvaeError, match=r"\(N, 1, 2, 3\)"):
        check_event_shape("x", torch.zeros(3), IMAGE)


def test_a_single_data_point_gets_the_remedy() -> None:
    with pytest.raises(FlowvaeError, match=r"\(64,\).*x\[None\]"):
        measure_likelihoods(MODEL, GUIDE, X[0], 2)
    assert measure_likelihoods(MODEL, GUIDE, X[0][None], 2).elbo.shape == (1,)


UNITS = torch.zeros(()), torch.ones(())


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Linear(5, 2), (5,)),
        (nn.Sequential(Standardize(*UNITS), nn.Sequential(nn.Linear(4, 2))), (4,)),
        (nn.Sequential(Standardize(torch.zeros(3), torch.ones(3)), nn.Tanh()), (3,)),
        (nn.Sequential(Standardize(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)), nn.Flatten()), (1, 2, 3)),
        (nn.Sequential(Standardize(*UNITS), MLP((4,)).build(Size((1, 2, 3)))), (1, 2, 3)),
        (nn.Sequential(Standardize(*UNITS)), None),
        (Conv((2,)).build(Size((1, 8, 8))), (1, 8, 8)),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), None),
        (nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3)), None),
        (nn.Sequential(), None),
        (FlowGuide(RealNVP()).build(2, 3), None),
    ],
)
def test_the_input_shape_is_that_of_the_first_layer(network: nn.Module, shape: tuple[int, ...] | None) -> None:
    assert input_shape(network) == shape
