"""Solutions to the questions of `10_the_explorer.ipynb`.

Question 1. `check_1` measures it; `share_in_holes` in the same cell says how.
"""

from flowvae.evaluation import from_base, to_base


def straight(prior, z_a, z_b):
    return (z_a + z_b) / 2


def through_base(prior, z_a, z_b):
    return from_base(prior, (to_base(prior, z_a) + to_base(prior, z_b)) / 2)
