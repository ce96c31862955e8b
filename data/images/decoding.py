"""Decoding of image files to intensities: upright, grey or RGB, of one size."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError, shown_path
from flowvae.core.memory import check_memory
from flowvae.core.progress import bar
from flowvae.data.images.geometry import Geometry

__all__ = ["as_bytes", "check_sizes", "decode", "read_files"]

TOGETHER = 64  # files read between two updates of the progress bar
CHANNELS = {"1": 1, "L": 1, "LA": 1, "RGB": 3, "RGBA": 3, "P": 3, "PA": 3, "CMYK": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
SIDEWAYS = (5, 6, 7, 8)  # orientations in the EXIF data that exchange height and width
ORIENTATION = 0x0112


def decode(file: Path) -> Tensor:
    """An image file as bytes (C, H, W), C = 1 or 3, upright by its EXIF orientation.

    Palettes, CMYK and other colour spaces become RGB; a transparency layer is dropped if nothing is transparent.

    Raises:
        FlowvaeError: for a damaged file, transparent pixels and more than 8 bits a channel.
    """
    from PIL import ImageOps

    return as_bytes(shown_path(file), _opened(file, lambda image: (image.load(), ImageOps.exif_transpose(image))[1]))


def as_bytes(where: str, image: Any) -> Tensor:
    """A PIL image as bytes (C, H, W), C = 1 or 3.

    Args:
        where: name of the image in messages.
        image: a PIL image with 8 bits a channel.

    Raises:
        FlowvaeError: for transparent pixels and more than 8 bits a channel.
    """
    _check_mode(where, image)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema()[0] < 255:
            raise FlowvaeError(
                f"{where}: has transparent pixels; put it on a background and save it without transparency, such as by "
                "Image.alpha_composite(background, image).convert('RGB') of Pillow."
            )
        image = image.convert(image.mode[:-1])
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def check_sizes(where: str, files: Sequence[Path], how: Geometry) -> tuple[int, int, int]:
    """The shape (C, H, W) of all images after preprocessing, read from the headers of the files.

    Raises:
        FlowvaeError: if sizes or colours differ; lists them and the settings that unify them.
    """
    found: Counter[tuple[int, int, int]] = Counter()
    for file in bar("reading sizes", "file", len(files), files):
        try:
            found[tuple(how.event_shape(_opened(file, _shape, file)))] += 1  # type: ignore[index]
        except FlowvaeError as error:
            raise FlowvaeError(f"{where}: {file.name}: {str(error).removeprefix(shown_path(file) + ': ')}") from None
    sizes: Counter[tuple[int, int]] = Counter()
    for (_, height, width), count in found.items():
        sizes[height, width] += count
    if len(sizes) > 1:
        some = ", ".join(f"{height} × {width} ({count})" for (height, width), count in sizes.most_common(3))
        more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
        raise FlowvaeError(
            f"{where}: images of {len(sizes)} sizes (height × width): {some}{more}; a model needs one: give resize and "
            "crop, such as --data.resize 64 --data.crop 64 for the centre square with sides of 64."
        )
    if len(found) > 1:
        grey = sum(count for (channels, *_), count in found.items() if channels == 1)
        raise FlowvaeError(
            f"{where}: {grey} grey images and {len(files) - grey} in colour; give colour 'rgb' or 'grey' "
            "(--data.colour rgb)."
        )
    return next(iter(found))


def read_files(
    what: str, files: Sequence[Path], shape: tuple[int, ...], change: Callable[[Tensor], Tensor]
) -> NDArray[Any]:
    """Image files as bytes (N, *shape), decoded by several threads.

    Args:
        what: name of the images in the progress bar and messages.
        files: paths of the files.
        shape: shape of an image after the change.
        change: function from a decoded image (1, C, H, W) to one of shape (1, *shape).

    Raises:
        FlowvaeError: for files that `decode` refuses, and images larger than memory.
    """
    check_memory(what, float(np.prod((len(files), *shape))), "choose smaller images by resize")
    images = np.empty((len(files), *shape), np.uint8)
    starts = range(0, len(files), TOGETHER)

    def read(start: int) -> None:
        for number, file in enumerate(files[start : start + TOGETHER], start):
            images[number] = change(decode(file)[None])[0].numpy()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        try:
            for _ in bar(f"reading {what}", "block", len(starts), threads.map(read, starts)):
                pass
        finally:
            threads.shutdown(cancel_futures=True)  # after an error, skip the other files
    return images


def _opened(file: Path, read: Callable[..., Any], *more: Any) -> Any:
    """Open an image file and return the result of `read(image, *more)`.

    Raises:
        FlowvaeError: for a file that is not a readable image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            _check_mode(shown_path(file), image)
            return read(image, *more)
    except FlowvaeError:
        raise
    except Image.DecompressionBombError:
        raise FlowvaeError(
            f"{shown_path(file)}: has too many pixels for Pillow's protection against harmful files; make it smaller."
        ) from None
    except Exception:  # damaged files raise OSError, SyntaxError, ValueError, struct.error, …
        raise FlowvaeError(f"{shown_path(file)}: not an image, or damaged; remove it, or copy it again.") from None


def _check_mode(where: str, image: Any) -> None:
    if image.mode not in CHANNELS:
        raise FlowvaeError(
            f"{where}: an image of mode {image.mode}, which does not have 8 bits a channel; save it with 8 bits, for "
            "16 bits such as by Image.fromarray((pixels // 257).astype('uint8'))."
        )


def _shape(image: Any, file: Path) -> tuple[int, int, int]:
    """The shape (C, H, W) of an image, from its header."""
    width, height = image.size
    if image.getexif().get(ORIENTATION) in SIDEWAYS:
        width, height = height, width
    return CHANNELS[image.mode], height, width
