"""Solutions to the exercises of `04_autoregressive_models_and_flows.ipynb`."""

import math
from itertools import pairwise


def masks(place, hidden):
    """Exercise 1: nothing in MADE asks for the natural order; the degree of an input is its place in the order.

    A hidden unit of degree m sees what has degree m or less, an output only units of a lower degree than its own
    place. Along a path degrees do not fall, and at the last step they rise.
    """
    degrees = [place, *hidden]
    inner = [(after[:, None] >= before).float() for before, after in pairwise(degrees)]
    return [*inner, (place[:, None] > hidden[-1]).float()]


# Exercise 2. A batch of 25 images goes through a network at once, so 25 never occurs. A stack of transforms takes the
# passes of each of them. The loop over 64 pixels stands where a network reads numbers that the transform itself has
# to produce: the data in MADE and MAF when drawing, the base in IAF when scoring. (The library takes 65 passes a
# transform for the latter, one of them for the log-determinant; 320 or 325 are both right.) In distillation the student
# draws and the teacher scores what was drawn: 5 + 5.
answer_2 = {
    "MADE: score": 1,
    "MADE: draw": 64,
    "MAF: score": 5,
    "MAF: draw": 5 * 64,
    "IAF: score": 5 * 64,
    "IAF: draw": 5,
    "RealNVP: score": 8,
    "RealNVP: draw": 8,
    "distillation step": 5 + 5,
}


def bits_per_dim(log_density, x, noise):
    """Exercise 3. v = 17 s, so log p_v(v) = log p_s(v / 17) − D log 17; the bound is its mean over the noise."""
    features = x.shape[-1]
    per_unit_of_v = log_density((x + noise) / 17) - features * math.log(17)
    return -per_unit_of_v.mean(0) / (features * math.log(2))
