"""What are no data (N, D) is refused by models, guides and measures; the message says what there was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
from flowvae.networks import MADE, MLP, Standardize, check_rows, columns_of

X = Digits().load(0).test[:50]
MODEL, GUIDE = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,))).build(Digits().load(0))
FLOW = FlowModel(RealNVP(hidden_features=(8,)).transform(64), 64)
COUNTS = DequantizedFlow(RealNVP(hidden_features=(8,)).transform(64), 64, 16)
NOISE = FlowNoise(nn.Linear(64, 4), RealNVP(hidden_features=(8,)), 64, 4)
FEW = Training(epochs=1, device="cpu")

WRONG: dict[str, Tensor] = {
    "one datum": X[0],
    "one column": X[:, :1],
    "half of the columns": X[:, :32],
    "images": X.unflatten(1, (8, 8)),
    "no data": X[:0],
    "whole numbers": X.long(),
    "float64": X.double(),
}
CALLS: dict[str, Callable[[Any], object]] = {
    "check_rows": lambda x: check_rows("x", x, 64, MODEL),
    "VAE": MODEL,
    "guide": GUIDE,
    "FlowModel": FLOW,
    "DequantizedFlow": COUNTS,
    "LinearGaussian": LinearGaussian(torch.ones(64, 2), torch.zeros(64), 1.0),
    "Autoregressive": Autoregressive(MADE((8,))).build(Digits().load(0)),
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
def test_what_are_no_data_is_refused(name: str, wrong: str) -> None:
    x = WRONG[wrong]
    with pytest.raises(FlowvaeError) as caught:
        CALLS[name](x)
    text = str(caught.value)
    if name not in ("VAE", "guide", "measure_flow"):  # to what comes through its own handlers Pyro adds shapes
        assert len(text.splitlines()) == 1
    if x.dtype != torch.float32:
        assert str(x.dtype) in text
    else:
        assert str(tuple(x.shape)) in text or (not len(x) and " 0" in text)


@pytest.mark.parametrize("name", CALLS)
def test_data_are_taken(name: str) -> None:
    CALLS[name](X)


def test_an_array_is_no_tensor() -> None:
    with pytest.raises(FlowvaeError, match=r"x = .*\(50, 64\).*tensor"):
        measure_likelihoods(MODEL, GUIDE, X.numpy(), 2)  # type: ignore[arg-type]


def test_a_single_datum_gets_the_remedy() -> None:
    with pytest.raises(FlowvaeError, match=r"\(64,\).*x\[None\]"):
        measure_likelihoods(MODEL, GUIDE, X[0], 2)
    assert measure_likelihoods(MODEL, GUIDE, X[0][None], 2).elbo.shape == (1,)


@pytest.mark.parametrize(
    ("network", "columns"),
    [
        (nn.Linear(5, 2), 5),
        (nn.Sequential(Standardize(torch.zeros(()), torch.ones(())), nn.Sequential(nn.Linear(4, 2))), 4),
        (nn.Sequential(Standardize(torch.zeros(3), torch.ones(3)), nn.Tanh()), 3),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), None),
        (nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3)), None),
        (nn.Sequential(), None),
        (FlowGuide(RealNVP()).build(2, 3), None),
    ],
)
def test_columns_are_those_of_the_first_layer(network: nn.Module, columns: int | None) -> None:
    assert columns_of(network) == columns
