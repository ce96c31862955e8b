"""Model/guide pairs whose log p(x) is known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from helpers import disturb
from torch import Tensor

from flowvae import MAF, Experiment
from flowvae.data import Pinwheel
from flowvae.experiments.assemble import ModelGuide
from flowvae.guides import GuideSpec
from flowvae.models import LinearGaussian
from flowvae.networks import MLP


class MeanField:
    """The best guide with independent dimensions of a linear-Gaussian model, shifted and scaled."""

    def __init__(self, model: LinearGaussian, shift: float = 0.0, factor: float = 1.0) -> None:
        self.model = model
        self.shift = shift
        self.factor = factor

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        best = self.model.mean_field(x).base_dist
        return dist.Normal(best.loc + self.shift, self.factor * best.scale).to_event(1)

    def __call__(self, x: Tensor, size: int | None = None) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))


def ppca(size: int) -> tuple[LinearGaussian, Tensor, Tensor]:
    """A linear-Gaussian model with three latents, data from it, (size, 6), and their log p(x)."""
    generator = torch.Generator().manual_seed(3)
    model = LinearGaussian(torch.randn(6, 3, generator=generator), torch.zeros(6), scale=0.7)
    with torch.no_grad():
        x = model(None, size)
        return model, x, model.log_evidence(x)


def bent(guide: GuideSpec, size: int) -> tuple[ModelGuide, Tensor, Tensor]:
    """A VAE with two latents, a flow prior and a nonlinear decoder, data and their log p(x) by an integral.

    Its weights are random, so its guide knows nothing of its posterior.
    """
    data = Pinwheel(train=50, valid=20, test=size).load(0)
    pair = Experiment(
        latent=2, prior=MAF(2, (8,)), guide=guide, encoder=MLP((8,)), decoder=MLP((8,)), data=Pinwheel()
    ).build(data)
    disturb(pair.model, 0.3)
    disturb(pair.guide, 0.05)
    with torch.no_grad():
        pair.model.likelihood.log_scale.zero_()  # noise as wide as the data, so that the posterior is wider than a cell
    edge = torch.linspace(-15, 15, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(edge, edge).to(data.test.dtype)
    cell = 2 * (edge[1] - edge[0]).log()
    with torch.no_grad():
        log_prior = pair.model.prior().log_prob(grid).double()
        assert abs((log_prior.logsumexp(0) + cell).item()) < 1e-4  # the grid holds all of the prior
        likelihood = pair.model.decode(grid)
        log_joint = torch.stack([likelihood.log_prob(x).double() + log_prior for x in data.test])
    return pair, data.test, log_joint.logsumexp(1) + cell
