"""Solutions to the exercises of `11_four_slips.ipynb`."""

import math

import torch
from torch.distributions import Normal
from torch.nn.functional import softplus

# Exercise 1. Line 4 adds the vector's log-determinant to every dimension; the sum of line 5 then counts it D times.
wrong_line_1 = 4


def flow_log_prob(z, layers):
    """Exercise 1. The base is summed over the dimensions, the log-determinant belongs to the vector."""
    log_det = torch.zeros(len(z))
    for layer in layers:
        z, term = layer(z)
        log_det = log_det + term
    return Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det


# Exercise 2. Line 3 scales by exp(log σ²) = σ². Line 7 mixes each dimension by itself, before line 8 sums: the two
# lines belong in the other order. What they compute is a product of D mixtures, with K^D hills.
wrong_lines_2 = (3, 7)


def mixture_sample(count, log_weight, mean, log_var):
    """Exercise 2. exp(½ log σ²) = σ."""
    k = torch.multinomial(log_weight.exp(), count, replacement=True)
    return mean[k] + (0.5 * log_var[k]).exp() * torch.randn(count, mean.shape[-1])


def mixture_log_prob(z, log_weight, mean, log_var):
    """Exercise 2. First the joint density of each component, then the mixture."""
    normal = Normal(mean[:, None], (0.5 * log_var[:, None]).exp())
    return (normal.log_prob(z).sum(-1) + log_weight[:, None]).logsumexp(0)


# Exercise 3 a). Line 3 divides by ‖w‖ instead of ‖w‖². Line 6 multiplies number by number: det(I + û ψᵀ) = 1 + ψᵀû.
wrong_lines_3 = (3, 6)

# Exercise 3 b). α − tanh(α) increases everywhere, so nothing folds; but its slope 1 − tanh'(0) is 0 at height 0, where
# the log-determinant is −∞. The bound is strict.
at_the_bound = "zero"


def constrained(u, w, slope):
    """Exercise 3 c). wᵀû = (softplus(L wᵀu) − 1) / L > −1/L; softplus(a) ≈ a leaves large wᵀu nearly as they are."""
    inner = w @ u
    return u + ((softplus(slope * inner) - 1) / slope - inner) * w / (w @ w)


def planar_log_det(z, u_hat, w, b):
    """Exercise 3 d)."""
    return torch.log1p((1 - torch.tanh(z @ w + b) ** 2) * (w @ u_hat))


# Exercise 4. Line 3 has no minus: it returns the mean log-likelihood.
wrong_line_4 = 3


def get_nll(log_joint, log_q, dimensions):
    """Exercise 4. In nats per datum, and in bits per dimension: a bit is log 2 nats."""
    log_w = log_joint - log_q
    nats = -(log_w.logsumexp(0) - math.log(len(log_w))).mean()
    return nats, nats / dimensions / math.log(2)
