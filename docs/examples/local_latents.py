"""Local latent variables with an encoder: a VAE, a hierarchical model and a mixed one, as plain Pyro models.

`AutoFlow(model, flow, encoder={"data": network})` is the guide of all three. Latent variables outside the plate "data"
have a joint flow; those inside are drawn given these and the network's features of their data.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae import IAF, MLP
from flowvae.guides import AutoFlow
from flowvae.inference import GuideSettings, fit_autoguide
from flowvae.networks import declare_parameters


class VAE(nn.Module):
    """z_i ~ N(0, I), x_i ~ N(g(z_i), 0.5²)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> None:
        declare_parameters("model", self)  # in place of pyro.module, without the global parameter store
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


def hierarchical(y: Tensor, size: int = 50) -> None:
    """A hierarchical model with one mean θ per data point around a common mean μ, on subsamples of the data."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y), subsample_size=size) as index:
        theta = pyro.sample("theta", dist.Normal(mu, 0.7))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y[index])


def mixed(x: Tensor) -> None:
    """Factor analysis: global loadings and a positive global noise scale, and local factors."""
    loadings = pyro.sample("loadings", dist.Normal(torch.zeros(2, 5), 1.0).to_event(2))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        factors = pyro.sample("factors", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = (factors[..., None, :] @ loadings).squeeze(-2)  # also under an outer plate, which vectorizes draws
        pyro.sample("x", dist.Normal(mean, noise[..., None]).to_event(1), obs=x)


if __name__ == "__main__":
    torch.manual_seed(0)
    settings = GuideSettings(steps=600, particles=4, learning_rate=0.03)
    x = torch.randn(200, 2) @ torch.randn(2, 5) + 0.5 * torch.randn(200, 5)

    vae = VAE()
    guide = AutoFlow(vae, IAF(), encoder={"data": MLP((32,))})
    print("VAE, ELBO in nats:", -fit_autoguide(vae, guide, settings, (x,), progress=False).losses[-50:].mean())

    y = 2 + 1.2 * torch.randn(1000)
    guide = AutoFlow(hierarchical, IAF(), encoder={"data": MLP((16,))}, draws=2000)
    fit_autoguide(hierarchical, guide, settings, (y,), progress=False)
    found = guide.quantiles([0.05, 0.5, 0.95], y)  # of all 1000 data points
    print("mu:", found["mu"], "and the first means:", found["theta"][1, :3])

    guide = AutoFlow(mixed, IAF(), encoder={"data": MLP((32,))}, draws=2000)
    fit_autoguide(mixed, guide, settings, (x,), progress=False)
    print("noise:", guide.quantiles([0.05, 0.5, 0.95], x)["noise"])
