"""Exercises of notebook 13: image flows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips, tensor_of

LEVELS = 17  # grey levels of the digits, 0, …, 16


def squeeze_image(x: Tensor) -> Tensor:
    """Channel 4c + 2i + j of the result is the pixel in row i and column j of each block of channel c."""
    size, channels, height, width = x.shape
    blocks = x.reshape(size, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(size, 4 * channels, height // 2, width // 2)


@exercise(
    squeeze_image,
    hints=(
        "Split both sides in two: reshape to (N, C, H/2, 2, W/2, 2). Which of these six dimensions count the block?",
        "The two dimensions of size 2 have to move next to C: permute(0, 1, 3, 5, 2, 4), then reshape once more.",
    ),
)
def squeezing(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges a function (N, C, H, W) → (N, 4C, H/2, W/2) that makes each 2×2 block a column of four channels."""
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).reshape(2, 3, 4, 6)
    found = tensor_of(answer(x), (2, 12, 2, 3), "four times the channels, half the height and width")
    right = squeeze_image(x)
    if torch.equal(found, right):
        return "A permutation of the values: log-determinant 0, and a channel mask now separates neighbouring pixels."
    if torch.equal(found, x.reshape(2, 12, 2, 3)):
        raise Wrong(
            "reshape alone cuts the rows of pixels into pieces; the four values of a block do not stay together."
        )
    if not torch.equal(found.flatten(1).sort().values, x.flatten(1)):
        raise Wrong("some values of an image are lost, repeated or moved to another image: a squeeze is a permutation.")
    if torch.equal(found.sort(1).values, right.sort(1).values):
        raise Wrong("the blocks are right, but the channels are in another order; channel 4c + 2i + j is asked for.")
    raise Wrong("the four values of one 2×2 block must become the four channels of one pixel.")


def convolution_log_det(weight: Tensor, height: int, width: int) -> Tensor:
    """The Jacobian is block-diagonal: one block W for each of the H·W pixels, so the determinant is (det W)^(HW)."""
    return height * width * torch.linalg.slogdet(weight)[1]


@exercise(
    convolution_log_det,
    hints=(
        "The same matrix acts on the channels of every pixel. What does the Jacobian of the whole image look like?",
        "It is block-diagonal with H·W blocks W. The determinant of such a matrix is a product.",
    ),
)
def one_by_one(answer: Callable[[Tensor, int, int], Tensor]) -> str:
    """Judges a function (W, H, W) → log|det| of an invertible 1×1 convolution of an image, in nats."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    weight = weight * torch.linalg.det(weight).sign() * -1  # a negative determinant
    found = tensor_of(answer(weight, 4, 5), (), "one number, the same for every image")
    size = torch.linalg.slogdet(weight)[1]
    if not found.isfinite():
        raise Wrong("the determinant of W is negative here: take its absolute value before the logarithm.")
    look_for_slips(
        found,
        20 * size,
        {
            "this is for one pixel; the matrix acts at every pixel.": size,
            "height times width, not their sum.": 9 * size,
            "one block W for each pixel: the number of blocks is H·W, not that of the channels.": 3 * size,
            "there is one block for each pixel, whatever the number of channels.": 60 * size,
            "the sign is that of the inverse.": -20 * size,
            "the determinant itself is raised to the power H·W; its logarithm is multiplied.": size.exp() ** 20,
        },
        unit="nats",
    )
    return "With W = PLU, log|det W| = Σ log|U_ii|: no determinant has to be computed."


def bits_per_dim(log_density: Tensor, features: int, scale: float) -> Tensor:
    """Minus the mean of log p(x + δ), in bits, over the number of values.

    The density is that of y = (x + δ)/s. With x + δ = s y, each of the D dimensions contributes log|dy/dx| = −log s:

        log p(x + δ) = log p(y) − D log s.
    """
    return -(log_density - features * math.log(scale)) / (features * math.log(2))


@exercise(
    bits_per_dim,
    hints=(
        "First the change of variables: the density of x + δ, given that of y = (x + δ)/s, in D dimensions.",
        "log p(x + δ) = log p(y) − D log s. Then minus, divide by D, and change nats to bits.",
    ),
)
def code_length(answer: Callable[[Tensor, int, float], Tensor]) -> str:
    """Judges a function (log p(y) in nats, D, s) → bits per dimension of counts x, where y = (x + δ)/s."""
    log_density = torch.tensor([10.0, 55.0, 80.0], dtype=torch.float64)
    features, scale = 64, float(LEVELS)
    found = answered(answer(log_density, features, scale))
    found = tensor_of(found, (3,), "one number for each image")
    right = bits_per_dim(log_density, features, scale)
    shift = 2 * math.log2(scale)
    slips = {
        "the change of variables is missing: this is the density of y, which depends on the scale s.": right
        - math.log2(scale),
        "the sign of the change of variables: y is squeezed by s, so its density is s^D times that of x + δ.": right
        - shift,
        "this is in nats per dimension; divide by log 2.": right * math.log(2),
        "this is in bits per image; divide by the number of dimensions.": right * features,
        "a code length is minus a log-probability.": -right,
        "log s is needed once for each dimension, not once for each image.": right
        - (features - 1) / features * math.log2(scale),
    }
    look_for_slips(found, right, slips, unit="bits per dimension")
    return (
        f"Uniform counts of {LEVELS} levels cost log₂ {LEVELS} = {math.log2(LEVELS):.2f} bits per dimension: p(y) = 1."
    )


def fixed_point(residual: Callable[[Tensor], Tensor], u: Tensor, steps: int) -> Tensor:
    """The iteration x ← u − r(x), started at u. Each step multiplies the error by Lip(r) at most."""
    x = u
    for _ in range(steps):
        x = u - residual(x)
    return x


@exercise(
    fixed_point,
    hints=(
        "u = x + r(x) is an equation for x. Write it as x = …, with x on both sides.",
        "Start with x = u and repeat x ← u − r(x).",
    ),
)
def undo(answer: Callable[[Callable[[Tensor], Tensor], Tensor, int], Tensor]) -> str:
    """Judges a function (r, u, steps) → x with x + r(x) = u, for a residual r with a Lipschitz constant below 1."""

    def residual(x: Tensor) -> Tensor:
        return 0.8 * torch.sin(x + 0.3)

    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    u = x + residual(x)
    found = tensor_of(answer(residual, u, 100), (50,), "one x for each u")
    slips = {
        "this is one step, u − r(u). It is exact only for a constant r: repeat it.": u - residual(u),
        "this is the map itself, not its inverse.": u + residual(u),
    }
    look_for_slips(found, x, slips, atol=1e-6)
    exact = [(answered(answer(residual, u, n)) - x).abs().max().item() for n in (5, 10)]
    return f"The error is {exact[0]:.1e} after 5 steps and {exact[1]:.1e} after 10; the theory promises 0.8 per step."
