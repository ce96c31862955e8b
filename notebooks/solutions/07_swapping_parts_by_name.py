"""Solutions to the exercises of `07_swapping_parts_by_name.ipynb`."""

import torch
from torch.distributions import Transform, constraints

from flowvae import IAF, NSF, Experiment, FlowGuide

# Exercise 1. The guide's own settings belong to FlowGuide; those of the flow inside it were not named.
answer_1 = Experiment(
    latent=4,
    seed=3,
    prior=NSF(bins=6),
    guide=FlowGuide(IAF(), base="full-rank", conditioned=False),
)


class Twist(Transform):
    """Exercise 2. In polar coordinates (r, θ) → (r, θ + α(r)): a triangular Jacobian with ones on its diagonal.

    Area is r dr dθ, and r is kept, so the determinant in the plane is 1 too, its logarithm 0. N(0, I) is the same in
    all directions: a twist of it is N(0, I) again. A layer next to the base must do more than turn.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def _turned(self, x, sign):
        angle = sign * self.strength * (-x.square().sum(-1) / 2).exp()
        cos, sin = angle.cos(), angle.sin()
        return torch.stack((cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]), -1)

    def _call(self, x):
        return self._turned(x, +1)

    def _inverse(self, y):
        return self._turned(y, -1)  # the distance is kept, so y knows the angle

    def log_abs_det_jacobian(self, x, y):
        return torch.zeros_like(x[..., 0])


# Exercise 3. A prior pays for densities, a guide for draws with their own density.
answer_3 = {
    "prior:iaf": "warns",  # slow: the density of a foreign code needs one pass a dimension
    "prior:planar": "refused",  # and root-finding is worse
    "guide:inverse-nsf": "trains",
    "guide:nsf": "warns",  # slow: a draw needs one pass a dimension
    "guide:sospf": "refused",  # its draws come from a bisection on a box
    "prior:coupling-nsf": "trains",  # cheap both ways
}
