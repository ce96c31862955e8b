"""The style of the course's figures, and animations that need no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flowvae.core.errors import FlowvaeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinguishable with any colour vision and, by their lightness, in greyscale (after Okabe & Ito 2008).
BLUE, ORANGE, RED, SKY, GREEN, PINK, GREY = "#1f4e79", "#e69f00", "#c0392b", "#56b4e9", "#009e73", "#cc79a7", "#8a8a8a"
WIDTH = 6.5  # inches: a figure of 650 pixels, readable on a page 600 pixels wide
LIMIT = 1_000_000  # bytes


def use_style() -> None:
    """Sets Matplotlib's defaults for a notebook: sizes, colours, no frame at the top and right."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.2),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=[BLUE, ORANGE, RED, SKY, GREEN, PINK, GREY]),
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.6,
            "image.cmap": "gray_r",
        }
    )


class Animation:
    """An animated picture, shown as `<img>`, which browsers play without a script."""

    def __init__(self, webp: bytes, description: str) -> None:
        self.webp = webp
        self.description = description

    def __repr__(self) -> str:
        return f"Animation({self.description!r}, {len(self.webp) / 1000:.0f} kB)"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.webp).decode()
        return f'<img alt="{self.description}" style="max-width: 100%" src="data:image/webp;base64,{data}">'


def animate(
    draw: Callable[[Any], Figure], frames: Sequence[Any], description: str, *, seconds: float = 0.15, hold: float = 1.5
) -> Animation:
    """Draws one figure for each frame and joins them into an animated picture.

    Args:
        draw: Draws and returns the figure of a frame; all figures have the same size.
        frames: Arguments of `draw`, in order.
        description: Alternative text of the picture.
        seconds: Duration of a frame in seconds.
        hold: Duration of the last frame in seconds.

    Raises:
        FlowvaeError: The picture would be larger than 1 MB.

    """
    from matplotlib import pyplot as plt
    from PIL import Image

    pictures = []
    for frame in frames:
        figure = draw(frame)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
        pictures.append(Image.open(buffer).convert("RGB"))
    durations = [round(1000 * seconds)] * (len(pictures) - 1) + [round(1000 * hold)]
    out = io.BytesIO()
    pictures[0].save(
        out, format="webp", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70, method=4
    )
    if out.tell() > LIMIT:
        raise FlowvaeError(f"an animation of {out.tell()} bytes; at most {LIMIT}: use fewer frames or a smaller figure")
    return Animation(out.getvalue(), description)
