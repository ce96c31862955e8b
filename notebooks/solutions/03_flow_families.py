"""Solutions to the exercises of `03_flow_families.ipynb`.

Exercise 1 on paper. Put the dimensions with m = 1 first and call them a, the others b. Then u_a = z_a and
u_b = exp(s(z_a)) ⊙ z_b + t(z_a), and the Jacobian in blocks is

    ∂u_a/∂z_a = I                  ∂u_a/∂z_b = 0
    ∂u_b/∂z_a = something          ∂u_b/∂z_b = diag(exp(s_b))

Numbers that stay do not depend on those that move: the block on the upper right is zero. The block on the lower
left has all derivatives of the network, but a block-triangular matrix has det = det(I) · det(diag(exp(s_b))), in
which it does not occur. So log|det ∂u/∂z| = Σ_b s_b = Σ_i (1 − m_i) s_i.

To solve for z: u_a = z_a, so the network can be run on m ⊙ u = m ⊙ z, and z_b = (u_b − t_b) / exp(s_b).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn


def normalize(z, mask, network):
    """Exercise 1: u, shape (N, D), and log|det ∂u/∂z| in nats, shape (N,)."""
    s, t = network(mask * z)
    u = mask * z + (1 - mask) * (s.exp() * z + t)
    return u, ((1 - mask) * s).sum(-1)


def generate(u, mask, network):
    """Exercise 1: z, shape (N, D)."""
    s, t = network(mask * u)
    return mask * u + (1 - mask) * (u - t) * (-s).exp()


class CouplingPrior(dist.TorchDistribution):
    """Exercise 2: log_prob walks the layers from z to u and adds; rsample walks them back."""

    arg_constraints = {}  # noqa: RUF012  (torch's own declaration)
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, layers, features):
        self.layers, self.features = layers, features
        super().__init__(batch_shape=torch.Size(), event_shape=torch.Size([features]), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return dist.ExpandedDistribution(self, torch.Size(batch_shape))

    def log_prob(self, z):
        total = torch.zeros(z.shape[:-1], dtype=z.dtype)
        for mask, network in self.layers:
            z, log_det = normalize(z, mask, network)
            total = total + log_det
        return dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1) + total

    def rsample(self, sample_shape=()):
        dtype = self.layers[0][0].dtype if self.layers else torch.get_default_dtype()
        z = torch.randn(*sample_shape, self.features, dtype=dtype)
        for mask, network in reversed(self.layers):
            z = generate(z, mask, network)
        return z


NOISE = 0.1


def vae_model(x, prior, decoder):
    """Exercise 3. The prior is registered like the decoder: it has weights now, and SVI goes by the store."""
    pyro.module("decoder", decoder)
    pyro.module("prior", prior)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(decoder(z), NOISE).to_event(1), obs=x)


def constrained(u, w):
    """Exercise 4. Adding c·w changes wᵀu by c ‖w‖², so c is what is missing over ‖w‖²."""
    inner = w @ u
    return u + (nn.functional.softplus(inner) - 1 - inner) * w / w.square().sum()
