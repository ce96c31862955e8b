"""A trained model whose every number is known: a linear Gaussian VAE with the exact posterior as its guide."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowvae import Condition, Experiment, FullRank, StandardNormal, Units
from flowvae.experiments.assemble import assemble
from flowvae.experiments.signature import Signature
from flowvae.experiments.trained_model import TrainedModel
from flowvae.models import GaussianLikelihood

W = np.array([[1.0, 0.5], [-0.3, 0.8], [0.2, -0.6]])  # x = W z + M c + noise
M = np.array([[0.0, 2.0, -1.0], [1.0, -1.0, 0.5], [0.5, 0.0, 3.0]])  # a column a class
NOISE = 0.7
FREQUENCIES = (3, 5, 0)
CLASSES = ("cat", "dog", "emu")
COVARIANCE = W @ W.T + NOISE**2 * np.eye(3)
PRECISION = np.eye(2) + W.T @ W / NOISE**2  # of the posterior
GAIN = np.linalg.solve(PRECISION, W.T) / NOISE**2  # posterior mean = GAIN (x − M c)


class Encoder(nn.Module):
    """x − M c, or x alone."""

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return x if c is None else x - c @ torch.as_tensor(M.T, dtype=x.dtype)


class Decoder(nn.Module):
    """W z + M c, or W z alone."""

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        mean = z @ torch.as_tensor(W.T, dtype=z.dtype)
        return mean if c is None else mean + c @ torch.as_tensor(M.T, dtype=z.dtype)


def exact(conditional: bool = False, offset: float | None = None, **parts: Any) -> TrainedModel:
    """The linear Gaussian VAE with its exact posterior; `parts` replace parts of the experiment."""
    condition = Condition(prior=False, guide=False) if conditional else None
    settings = {
        "latent": 2,
        "encoder": Encoder(),
        "decoder": Decoder(),
        "prior": StandardNormal(),
        "guide": FullRank(),
        "condition": condition,
    }
    experiment = Experiment(**{**settings, **parts})
    signature = Signature(
        shape=(3,),
        rows=8,
        likelihood=str(GaussianLikelihood(NOISE)),
        dtype="float32",
        condition=3 if conditional else 0,
        classes=CLASSES if conditional else (),
        frequencies=FREQUENCIES if conditional else (),
        offset=None if offset is None else (offset, 0.0, -offset),
    )
    pair = assemble(experiment, signature, Units(torch.zeros(3), torch.ones(3)), torch.zeros(8, 3))
    head = pair.guide.head
    if "guide" not in parts:
        lower = np.linalg.cholesky(np.linalg.inv(PRECISION))
        with torch.no_grad():
            for layer in (head.loc, head.log_scale, head.lower):
                layer.weight.zero_()
            head.loc.weight.copy_(torch.as_tensor(GAIN))
            head.loc.bias.zero_()
            head.log_scale.bias.copy_(torch.as_tensor(np.log(np.diag(lower))))
            head.lower.bias.copy_(torch.as_tensor([lower[1, 0] / lower[1, 1]]))
    return TrainedModel(experiment, signature, pair)


def data(rows: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """Data points (N, 3)."""
    return np.random.default_rng(seed).normal(size=(rows, 3))
