"""Solutions to the exercises of `02_change_of_variables.ipynb`."""

import math

import torch
from torch.distributions import Normal

standard = Normal(0.0, 1.0)


def log_density(x):
    """Exercise 1. u = log x − log(1 − x), so du/dx = 1/x + 1/(1 − x) = 1 / (x (1 − x))."""
    return standard.log_prob(x.logit()) - (x * (1 - x)).log()


def log_density_polar(r, theta):
    """Exercise 2. ∂x/∂(r, θ) has the rows (cos θ, −r sin θ) and (sin θ, r cos θ), so its determinant is r.

    x is a function of (r, θ), whose density is asked for: it plays the part that u plays elsewhere, and log r is
    added. The base log-density is −(x₁² + x₂²)/2 − log 2π = −r²/2 − log 2π. θ is not in it: θ is uniform.
    """
    return -(r**2) / 2 - math.log(2 * math.pi) + r.log()


def flow_log_density(x, layers):
    """Exercise 3. Undo the layers from the last to the first; each term is taken where its layer acted."""
    total = torch.zeros(len(x))
    for layer in reversed(layers):
        before = layer.inv(x)
        total = total - layer.log_abs_det_jacobian(before, x)
        x = before
    return standard.log_prob(x).sum(-1) + total
