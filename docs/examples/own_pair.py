"""A custom Pyro model and guide with two latent sites, and measures that are computed from log-weights."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae import Training
from flowvae.evaluation import measure_ais, measure_likelihoods
from flowvae.inference import fit
from flowvae.networks import declare_parameters


class Model(nn.Module):
    """z2 ~ N(0, I), z1 ~ N(A z2, I), x ~ N(W z1, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = nn.Linear(2, 3), nn.Linear(3, 5)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        declare_parameters("model", self)  # in place of pyro.module, without the global parameter store
        with pyro.plate("data", size if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.upper(z2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.lower(z1), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    """q(z1 | x) q(z2 | z1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.first(x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc, log_scale = self.second(z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))


if __name__ == "__main__":
    torch.manual_seed(0)
    model, guide, x = Model(), Guide(), torch.randn(500, 5)
    fit(model, guide, x[:400], x[400:], Training(epochs=20))
    print(measure_likelihoods(model, guide, x[400:], draws=1000).log_evidence.mean())
    print(measure_ais(model, guide, x[400:420]).log_evidence.mean())
