"""Shapes of flat images: the layout of a row of D numbers, and checks."""

from __future__ import annotations

import math

from flowvae.core.errors import FlowvaeError, shown

__all__ = ["Shape", "check_image_setting", "image_of"]

Shape = tuple[int, int, int]  # channels, height, width; a flat image lists channel by channel, row by row


def check_image_setting(owner: object, name: str = "image_shape") -> None:
    """Check that a setting is None or a pair (height, width) of whole numbers; a list becomes a tuple.

    Raises:
        FlowvaeError: if it is neither.
    """
    value = getattr(owner, name)
    if isinstance(value, list):
        value = tuple(value)
        object.__setattr__(owner, name, value)
    if value is None:
        return
    if not isinstance(value, tuple) or len(value) != 2 or any(type(v) is not int or v < 1 for v in value):
        raise FlowvaeError(
            f"{type(owner).__name__}.{name} = {shown(value)}: must be (height, width), such as (8, 8), "
            "or none for a square image of one channel."
        )


def image_of(owner: object, features: int, image_shape: tuple[int, int] | None, divisor: int = 1) -> Shape:
    """Determine channels, height and width of flat images of D features.

    Args:
        owner: the flow, named in error messages.
        features: D = channels × height × width.
        image_shape: (height, width); None: a square of one channel.
        divisor: number by which height and width must be divisible.

    Raises:
        FlowvaeError: if D numbers do not form such an image, or its sides are not divisible.

    >>> image_of(None, 48, (4, 4))
    (3, 4, 4)
    """
    who = type(owner).__name__
    side = math.isqrt(features)
    height, width = image_shape or (side, side)
    channels, rest = divmod(features, height * width) if features > 0 else (0, 1)
    if rest:
        shape = image_shape or "a square"
        raise FlowvaeError(
            f"features = {features} with {who}: not an image of shape {shape}; give image_shape = (height, width) "
            "whose product divides the number of features."
        )
    if height % divisor or width % divisor:
        raise FlowvaeError(
            f"image_shape = ({height}, {width}) with {who}: height and width must be divisible by {divisor}; "
            "use fewer levels, or pad the images."
        )
    return channels, height, width
