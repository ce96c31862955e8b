"""Solutions to the exercises of `05_the_prior_becomes_a_flow.ipynb`."""

import math
from dataclasses import replace

import torch
from torch.distributions import Normal

from flowvae import Experiment, Pinwheel, RealNVP, Training

base = Experiment(  # that of section 1
    latent=2,
    seed=0,
    data=Pinwheel(train=6000, valid=1000, test=500),
    inference=Training(epochs=100, batch_size=256, learning_rate=2e-3, validation_draws=2),
)


def log_density(x):
    """Exercise 1. u = 2 log x, so du/dx = 2 / x."""
    return Normal(0.0, 1.0).log_prob(2 * x.log()) + math.log(2) - x.log()


# Exercise 2. A density sees the whole code at once: one pass in each of 5 transforms. A sample is built number by
# number: 16 passes in each.
answer_2 = (5, 5 * 16)

# Exercise 3. Coupling layers copy what their network reads, so they know it in both directions.
answer_3 = replace(base, prior=RealNVP())


def elbo_flow_prior(noise, loc, scale, to_base, from_base, log_likelihood):
    """Exercise 4, first VAE: prior T_# N(0, I), decoder g, guide N(loc, scale²)."""
    z = loc + scale * noise
    epsilon, log_det = to_base(z)
    log_prior = _log_normal(epsilon) + log_det
    log_q = _log_normal(noise) - scale.log().sum(-1)
    return log_likelihood(z) + log_prior - log_q


def elbo_warped_guide(noise, loc, scale, to_base, from_base, log_likelihood):
    """Exercise 4, second VAE: prior N(0, I), decoder g∘T, guide of ε = T⁻¹(loc + scale · noise).

    The guide is itself a flow from the noise to ε. Its first layer scales, with log-determinant Σ log scale; its
    second is T⁻¹, whose log-determinant at z is minus that of T at ε. The latter comes with the pass through T that
    the decoder g∘T makes anyway.
    """
    epsilon, _ = to_base(loc + scale * noise)
    z, log_det_generative = from_base(epsilon)
    log_q = _log_normal(noise) - scale.log().sum(-1) + log_det_generative
    return log_likelihood(z) + _log_normal(epsilon) - log_q


def _log_normal(value):
    return Normal(torch.zeros_like(value), 1.0).log_prob(value).sum(-1)
