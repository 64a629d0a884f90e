"""From the bytes of an image file to its pixels."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from resexp.data.images import Pixels

MAX_PIXELS = 80_000_000
"""Of one image; ImageNet has photographs of 40 million."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF")
"""What Pillow is asked to decode; some of ImageNet's files are not the JPEGs that their names say."""


class Unreadable(Exception):
    """An image that can't be decoded, and why."""


def decode(data: bytes | Pixels, shorter_side: int | None = None) -> Pixels:
    """The image in the bytes of a file, uint8 (H, W, 3), RGB whatever its own colours are.

    Of an image that is to be made smaller, `shorter_side` says how far: a JPEG whose shorter side is at least twice as
    long is then decoded at 1/2, 1/4 or 1/8 of its size, but not below `shorter_side`. That leaves out the transforms of
    what the resizing would average away; it changes pixels slightly. Raises Unreadable.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width)
        if colours in ("Gray", "YCbCr", "RGB"):
            return _decode_jpeg(data, height, width, shorter_side)
    except ValueError:  # no JPEG, or one with faults, which Pillow may know better
        pass
    return _decode_any(data)


def _decode_jpeg(data: bytes | Pixels, height: int, width: int, shorter_side: int | None) -> Pixels:
    if shorter_side is None or min(height, width) < 2 * shorter_side:
        return simplejpeg.decode_jpeg(data, fastdct=False)
    low = {"min_height": shorter_side} if height <= width else {"min_width": shorter_side}
    return simplejpeg.decode_jpeg(data, fastdct=False, min_factor=2, **low)


def _decode_any(data: bytes | Pixels) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.height, image.width)
            return np.asarray(image.convert("RGB"))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like at files that were made to break them
        raise Unreadable(str(error) or type(error).__name__) from None


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise Unreadable(f"{width}x{height} pixels is over the limit of {MAX_PIXELS:,}")
