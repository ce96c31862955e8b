"""Solutions to the exercises of `10_the_explorer.ipynb`."""

from flowvae.evaluation import from_base, to_base


def share_in_holes(log_q_draws, log_q_codes):
    """Exercise 1. The codes set the threshold, the draws are counted."""
    return (log_q_draws < log_q_codes.quantile(0.05)).double().mean().item()


def straight(prior, z_a, z_b):
    """Exercise 2. The mean of the codes."""
    return (z_a + z_b) / 2


def through_base(prior, z_a, z_b):
    """Exercise 2. The mean of the base points, carried back."""
    return from_base(prior, (to_base(prior, z_a) + to_base(prior, z_b)) / 2)
