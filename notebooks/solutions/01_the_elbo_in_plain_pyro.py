"""Solutions to the exercises of `01_the_elbo_in_plain_pyro.ipynb`."""

import math

import torch

from flowvae.models import LinearGaussian

weight = torch.tensor([[1.0, 0.6], [0.8, 0.9], [-0.2, 0.7], [0.5, 0.4], [0.9, 0.1]], dtype=torch.float64)
oracle = LinearGaussian(weight, mean=torch.zeros(5, dtype=torch.float64), scale=0.5)  # the model of section 6
oracle.requires_grad_(False)

# Exercise 1. Let z ~ N(m, V) be the guide around the posterior's mean m. Its entropy does not change with its mean,
# so the ELBO loses E[log p(z | x) − log p(z + δ | x)] = ½ E[(z + δ − m)ᵀΛ(z + δ − m) − (z − m)ᵀΛ(z − m)]. The terms
# without δ cancel, the mixed term δᵀΛ(z − m) has the mean zero, and ½ δᵀΛδ is left.
delta = torch.tensor([0.3, 0.1], dtype=torch.float64)
answer_1 = 0.5 * delta @ oracle.precision() @ delta


def kl_to_standard_normal(loc, scale):
    """Exercise 2. One dimension has ½ (σ² + μ² − 1) − log σ; independent dimensions add."""
    return (0.5 * (scale.square() + loc.square() - 1) - scale.log()).sum(-1)


def log_evidence_bound(log_weight):
    """Exercise 3. logsumexp takes the largest weight out before it exponentiates."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))
