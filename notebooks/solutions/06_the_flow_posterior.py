"""Solutions to the exercises of `06_the_flow_posterior.ipynb`."""

import torch


def stacked_log_det(z, layers):
    """Exercise 1. Each layer is scored where it acts: at what the layers before it put out."""
    total = torch.zeros(len(z))
    for u, w, b in layers:
        t = torch.tanh(z @ w + b)
        total = total + torch.log1p((1 - t.square()) * (w @ u))
        z = z + t[:, None] * u
    return total


# Exercise 2. A layer has u and w of 2 numbers each and b: 5. A conditioned flow gets all of these from the encoder,
# with 2 numbers for the Gaussian's location and 2 for its scale.
answer_2 = (50, 54)

# Exercise 3. With L[q_k] in place of L[q*], and L[q_k] < L[q*], log p(x) − L[q_k] is too large by what is missing, and
# L[q_k] − L[q] too small by the same. Their sum is right.
answer_3 = "approximation too large"
