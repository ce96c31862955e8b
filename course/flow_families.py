"""Exercises of notebook 5: flow families."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips, tensor_of

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class CouplingNetwork(nn.Module):
    """A small network v → (s, t)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, 32)
        self.last = nn.Linear(32, 2 * features)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (..., D) to two of the same shape."""
        s, t = self.last(self.first(v).tanh()).chunk(2, -1)
        return s, t


def coupling_network(features: int, seed: int = 0) -> CouplingNetwork:
    """A random network in double precision."""
    with seeded(seed):
        return CouplingNetwork(features).double()


def normalize(z: Tensor, mask: Tensor, network: Network) -> tuple[Tensor, Tensor]:
    """The Jacobian is block-triangular, with the dimensions that stay (a) first and those that move (b) second.

        ∂u_a/∂z_a = I                  ∂u_a/∂z_b = 0
        ∂u_b/∂z_a = something          ∂u_b/∂z_b = diag(exp(s_b))

    The block "something" holds all derivatives of the network and does not occur in the determinant,
    det(I) · det(diag(exp(s_b))). So log|det ∂u/∂z| is the sum of s over the dimensions that move.
    """
    s, t = network(mask * z)
    u = mask * z + (1 - mask) * (s.exp() * z + t)
    return u, ((1 - mask) * s).sum(-1)


@exercise(
    normalize,
    hints=(
        "The network sees only the numbers that stay: mask * z.",
        "Order the dimensions so that those that stay come first. Which block of the Jacobian is zero?",
        "The determinant of a block-triangular matrix is the product of the determinants on its diagonal.",
    ),
)
def coupling(answer: Callable[[Tensor, Tensor, Network], tuple[Tensor, Tensor]]) -> str:
    """Judges an affine coupling layer in the normalizing direction: (z, mask, network) → (u, log|det ∂u/∂z|)."""
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    network = coupling_network(5)
    z = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    both = answered(answer(z, mask, network))
    if not isinstance(both, tuple) or len(both) != 2:
        raise Wrong("the function should return two things: u and the log-determinant.")
    u, log_det = both
    u = tensor_of(u, (20, 5), "u has one row for each vector")
    (s, t), (s_all, t_all) = network(mask * z), network(z)
    stay, move = mask == 1, mask == 0
    if not torch.equal(u[:, stay], z[:, stay]) and torch.equal(u[:, move], z[:, move]):
        raise Wrong("the roles of the mask are exchanged: where it is 1, numbers stay.")
    right, truth = normalize(z, mask, network)
    slips = {
        "the network has seen all of z, so the layer cannot be inverted: give it mask * z.": (
            mask * z + (1 - mask) * (s_all.exp() * z + t_all)
        ),
        "the scale is exp(s), which is positive; you multiplied by s.": mask * z + (1 - mask) * (s * z + t),
        "this is the other direction, (z − t)/exp(s). The normalizing one scales, then shifts.": (
            mask * z + (1 - mask) * ((-s).exp() * (z - t))
        ),
        "numbers whose mask is 1 must come out unchanged; s and t act on the others only.": s.exp() * z + t,
    }
    look_for_slips(u, right, slips)
    slips = {
        "it has the wrong sign for the normalizing direction.": -truth,
        "it sums s over all dimensions; those that stay are not scaled.": s.sum(-1),
        "it sums s over the dimensions that stay; the others are scaled.": (mask * s).sum(-1),
        "it is a mean over dimensions; the logarithm of a product is a sum.": truth / 5,
        "this is the determinant; the exercise asks for its logarithm.": truth.exp(),
        "it is zero: that would be NICE, where nothing is scaled.": torch.zeros_like(truth),
        "it sums exp(s); the diagonal holds exp(s), so its logarithm is s.": ((1 - mask) * s.exp()).sum(-1),
        "it sums exp((1 − m) s); the diagonal holds this, so its logarithm is (1 − m) s.": (
            ((1 - mask) * s).exp().sum(-1)
        ),
    }
    log_det = tensor_of(log_det, (20,), "u is right, and there is one log-determinant for each vector")
    by_autograd = torch.stack([jacobian(lambda v: answer(v[None], mask, network)[0][0], point) for point in z])
    explained = {f"u is right. The log-determinant is not: {reason}": value for reason, value in slips.items()}
    unit = "nats, the log-determinant; u is right"
    look_for_slips(log_det, torch.linalg.slogdet(by_autograd).logabsdet, explained, unit=unit)
    return "The log-determinant agrees with automatic differentiation."


def generate(u: Tensor, mask: Tensor, network: Network) -> Tensor:
    """The numbers that stay are equal in u and z, so the network gives the same s and t from mask * u."""
    s, t = network(mask * u)
    return mask * u + (1 - mask) * (u - t) * (-s).exp()


@exercise(
    generate,
    hints=(
        "Where the mask is 1, z = u. So s and t can be computed from u.",
        "Solve u = exp(s) z + t for z.",
    ),
)
def inverse(answer: Callable[[Tensor, Tensor, Network], Tensor]) -> str:
    """Judges the generative direction of the coupling layer: (u, mask, network) → z."""
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    network = coupling_network(5)
    z = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _ = normalize(z, mask, network)
    found = tensor_of(answer(u, mask, network), (20, 5), "one row for each vector")
    (s, t), (s_all, t_all) = network(mask * u), network(u)
    slips = {
        "the network has seen all of u. Give it mask * u.": mask * u + (1 - mask) * (u - t_all) * (-s_all).exp(),
        "this scales and shifts once more; solve u = exp(s) z + t for z.": normalize(u, mask, network)[0],
        "undo the shift first, then the scale: (u − t)/exp(s).": mask * u + (1 - mask) * ((-s).exp() * u - t),
        "the scale is undone by division by exp(s), that is, by multiplication by exp(−s).": (
            mask * u + (1 - mask) * (u - t) * s.exp()
        ),
        "the scale is exp(s); you divided by s.": mask * u + (1 - mask) * (u - t) / s,
        "numbers whose mask is 1 are also part of z: add mask * u.": (1 - mask) * (u - t) * (-s).exp(),
        "this is u: the numbers that were moved have to be moved back.": u,
        "numbers whose mask is 1 did not move, so leave them.": (u - t) * (-s).exp(),
    }
    look_for_slips(found, z, slips)
    return "The networks are never inverted, so they can be any functions."


def activation(height: Tensor) -> Tensor:
    """The activation in the exercise on the planar constraint, 3 sigmoid."""
    return 3 * height.sigmoid()


def least_inner_product() -> float:
    """Along w the layer moves α to α' = α + (wᵀu) h(α + b), with slope 1 + (wᵀu) h'.

    The slope must be positive wherever h' is largest: wᵀu > −1/sup h'. Here h' = 3 σ(1 − σ) ≤ 3/4, so wᵀu > −4/3.
    (The supremum of h itself, 3, does not matter. Adding a constant to h shifts space and changes no slope.)
    """
    height = torch.tensor(0.0, requires_grad=True)  # the slope of the sigmoid is largest here
    (steepest,) = torch.autograd.grad(activation(height), height)
    return -1 / steepest.item()


@exercise(
    least_inner_product,
    hints=(
        "Follow the height α = wᵀz: by what map does it move, and what is the slope of this map?",
        "The slope 1 + (wᵀu) h' must be positive also where h' is largest.",
    ),
    value=True,
)
def bound(answer: float | Tensor) -> str:
    """Judges the number that wᵀu must exceed in a planar layer with h = 3 sigmoid."""
    found, right = tensor_of(answer, (), "one number"), least_inner_product()
    slips = {
        "the slope of the map along w depends on h', not on h: you took the largest value of h.": -1 / 3,
        "this is minus the largest value of h; the condition is 1 + (wᵀu) h' > 0.": -3.0,
        "that is the bound for tanh, whose largest slope is 1.": -1.0,
        "that is the bound for the sigmoid itself; here it is multiplied by 3.": -4.0,
        "the sign: a layer may always stretch, so only a negative wᵀu can fold space.": -right,
        "the condition is 1 + (wᵀu) h' > 0; you inverted the wrong number.": 1 / right,
    }
    otherwise = f"{found:.4g} is not the bound. Where is the slope of h largest, and what is it there?"
    look_for_slips(found, right, slips, rtol=0, atol=1e-2, otherwise=otherwise)
    return f"The inner product must exceed {right:.4f}."
