"""From the bytes of an image file to its pixels."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from resexp.data.images import Pixels

MAX_PIXELS = 80_000_000
"""Of one image; ImageNet has photographs of 40 million."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF")
"""What Pillow is asked to decode; some of ImageNet's files are not the JPEGs that their names say."""


class Unreadable(Exception):
    """An image that can't be decoded, and why."""


def decode(data: bytes | Pixels, shorter_side: int | None = None) -> Pixels:
    """The image in the bytes of a file, uint8 (H, W, 3), RGB whatever its own colours are.

    Of an image that is to be made smaller, `shorter_side` says how far: a JPEG whose shorter side is at least four
    times as long is then decoded at half its size or less, but not below twice that. So frequencies are left out which
    resizing would average away: it changes pixels by one or two in 255, and takes two thirds of the time where a
    photograph of 3000 pixels becomes one of 256. Raises Unreadable.
    """
    if not len(data):
        raise Unreadable("empty")
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width)
        if colours in ("Gray", "YCbCr", "RGB"):
            return _decode_jpeg(data, height, width, shorter_side)
    except ValueError:  # no JPEG, or one with faults, which Pillow may know better
        pass
    return _decode_any(data)


def _decode_jpeg(data: bytes | Pixels, height: int, width: int, shorter_side: int | None) -> Pixels:
    low = {}
    if shorter_side is not None and min(height, width) >= 4 * shorter_side:
        low = {"min_factor": 2, "min_height" if height <= width else "min_width": 2 * shorter_side}
    image: Pixels = simplejpeg.decode_jpeg(data, fastdct=False, **low)
    return image


def _decode_any(data: bytes | Pixels) -> Pixels:
    try:
        with Image.open(io.BytesIO(bytes(data)), formats=FORMATS) as image:
            _check_size(image.height, image.width)
            return np.array(image.convert("RGB"))  # a copy, which can be written to
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image") from None
    except Exception as error:  # decoders raise what they like at files that were made to break them
        raise Unreadable(str(error) or type(error).__name__) from None


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise Unreadable(f"{width}x{height} pixels is over the limit of {MAX_PIXELS:,}")
