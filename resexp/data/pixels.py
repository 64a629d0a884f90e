"""From the bytes of an image file to RGB pixels: upright, of 8 bits a channel."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from resexp.errors import UnreadableImageError
from resexp.utils.untrusted import recognised

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats that are decoded, whatever the file's suffix; Pillow's others include a programming language."""
MAX_PIXELS = 80_000_000
"""Largest image; ImageNet has photographs of 40 million pixels."""

_MAX_SEGMENTS, _MAX_METADATA, _MAX_SCANS, _MAX_CHUNKS, _MAX_SLOW_PPM = 1_000, 1 << 24, 100, 100_000, 1 << 22
"""Limits on what a file holds besides pixels, since Pillow could need minutes for it."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""What a segment of a JPEG begins with; in pixels 0xFF is followed by 0 or by the number of a restart."""
_SCAN, _END = 0xDA, 0xD9
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PPM = re.compile(rb"P[1-6]" + _GAP + rb"\d+" + _GAP + rb"\d+(?:" + _GAP + rb"(\d+))?\s")
_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _PLANES, _COLOURS, _SAMPLES = 258, 262, 284, 320, 339
"""TIFF's tags BitsPerSample, PhotometricInterpretation, which is 0 where the largest value is black,
PlanarConfiguration, which is 2 where each colour is stored apart, ColorMap, and SampleFormat, which is 1 for unsigned
integers."""
_STARTS = {b"\x89PNG": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"BM": "BMP"}
_STARTS |= {b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP"}
"""The first bytes of formats that are decoded."""

# Pillow warns of large images, for which MAX_PIXELS is the limit, and of odd metadata, without the file's name. Where
# PYTHONWARNINGS makes errors of warnings, such an image could not be read.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow's own reader takes planes of 16 bits for planes of 8, and averages of colours for colours.
TiffImagePlugin.READ_LIBTIFF = True


class Decoded(NamedTuple):
    """An image, and what of its file is not in its pixels."""

    pixels: Pixels
    """(H, W, 3), which can be written to."""
    transparent: bool
    """Whether some pixels are not opaque; their stored colours are used."""
    frames: bool
    """Whether there are more images in the file; the first is taken."""


def read_image(data: bytes) -> Decoded:
    """The image in the bytes of a file.

    Pixels are turned as the EXIF orientation says. Grey values of 16 bits are divided by 257 and rounded. Raises
    UnreadableImageError, also where 32-bit values leave open what is white.
    """
    try:
        _check_work(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.height, image.width)
            # The other picture in a phone's JPEG (MPO) is a preview.
            frames = getattr(image, "is_animated", False) and image.format != "MPO"
            transparent = image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255
            pixels = _rgb(image)
            return Decoded(_upright(pixels, _orientation(image)), bool(transparent), frames)
    except (UnreadableImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(_unread(data) or recognised(data) or "not an image") from None
    except Exception as error:  # decoders raise what they like at files that were made to break them
        raise UnreadableImageError(" ".join(str(error).split()) or _unread(data) or type(error).__name__) from None


def decode(data: bytes, shorter_side: int | None = None) -> Pixels:
    """The pixels that `read_image` gives, (H, W, 3), faster for JPEGs, which may differ by 2 in 255.

    `shorter_side` is the length to which the image will be resized. A JPEG at least four times as long is decoded at
    1/2, 1/4 or 1/8 of its size, never below twice `shorter_side`. That changes pixels by one or two in 255, and takes
    two thirds of the time where a photograph of 3000 pixels becomes one of 256. Raises UnreadableImageError.
    """
    try:
        _check_work(data)
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width)
        if colours in ("Gray", "YCbCr", "RGB"):
            smaller: dict[str, int] = {}
            if shorter_side is not None and min(height, width) >= 4 * shorter_side:
                smaller = {"min_factor": 2, "min_height" if height <= width else "min_width": 2 * shorter_side}
            return _upright(simplejpeg.decode_jpeg(data, fastdct=False, **smaller), orientation(data))
    except ValueError:  # no JPEG, or one with faults, which Pillow may know better
        pass
    return read_image(data).pixels


def _unread(data: bytes) -> str:
    """What Pillow can't read although it begins as an image does; empty if it does not."""
    kind = next((kind for start, kind in _STARTS.items() if data.startswith(start)), None)
    return f"a {kind}, but damaged or with pixels of a kind that is not read; save it as PNG of 8 bits" if kind else ""


def orientation(data: bytes) -> int:
    """EXIF's orientation of a JPEG file, from 1 to 8."""
    head = data[: next((at for at, marker in _segments(data) if marker == _SCAN), None)]
    if b"Exif\0\0" not in head and b"http://ns.adobe.com/xap/" not in head:
        return 1
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return _orientation(image)
    return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """The image (H, W, 3) as it is to be seen: a camera writes its rows as they left the sensor."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _check_size(height: int, width: int) -> None:
    """Raise UnreadableImageError where an image has too many pixels."""
    if height * width > MAX_PIXELS:
        raise UnreadableImageError(f"{width}x{height} pixels is over the limit of {MAX_PIXELS:,}; make it smaller")


def _check_work(data: bytes) -> None:
    """Raise UnreadableImageError where a file is made so that it takes minutes to decode."""
    if not len(data):
        raise UnreadableImageError("empty")
    if data[:2] == b"\xff\xd8":
        _check_jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png(data)
    elif data[:1] == b"P" and data[1:2] in b"123456":
        _check_ppm(data)


def _check_jpeg(data: bytes) -> None:
    may_be_slow = data.count(bytes([0xFF, _SCAN])) > _MAX_SCANS  # or a phone's video follows the image
    scans = 0
    for number, (at, marker) in enumerate(_segments(data)):
        scans += marker == _SCAN
        if scans and not may_be_slow:
            break
        if not scans and at > _MAX_METADATA:
            raise UnreadableImageError(f"over {_MAX_METADATA:,} bytes of metadata; save it without")
        if scans > _MAX_SCANS:
            raise UnreadableImageError(f"a JPEG of over {_MAX_SCANS} scans; save it with fewer")
        if number >= _MAX_SEGMENTS:
            raise UnreadableImageError(f"over {_MAX_SEGMENTS:,} segments of metadata; save it without")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each segment of a JPEG begins, and its kind, up to the end of the image."""
    at = 2
    while (found := _MARKER.search(data, at)) and data[found.start() + 1] != _END:
        yield found.start(), data[found.start() + 1]
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def _check_png(data: bytes) -> None:
    at = 8
    for _ in range(_MAX_CHUNKS):
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if at >= len(data):
            return
    raise UnreadableImageError(f"a PNG of over {_MAX_CHUNKS:,} chunks; save it anew")


def _check_ppm(data: bytes) -> None:
    header = _PPM.match(data[:4096])
    if header is None:
        raise UnreadableImageError("a PPM without width, height and largest value in its first 4,096 bytes")
    kind, white = data[:2], header[1]
    fast = kind == b"P4" or (kind in (b"P5", b"P6") and white == b"255") or (kind == b"P5" and white == b"65535")
    if not fast and len(data) > _MAX_SLOW_PPM:
        raise UnreadableImageError(
            f"a PPM of over {_MAX_SLOW_PPM:,} bytes as text or with another largest value than 255; save it as PNG"
        )


def _rgb(image: Image.Image) -> Pixels:
    bits = 16
    inverted = signed = False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, inverted = max(tags.get(_BITS, (1,))), tags.get(_PHOTOMETRIC) == 0
        signed = max(tags.get(_SAMPLES, (1,))) == 2
        if _PHOTOMETRIC not in tags:
            raise UnreadableImageError("a TIFF that leaves open whether 0 is black or white; save it as PNG")
        if image.mode == "LAB" and tags.get(_PLANES) == 2:
            raise UnreadableImageError("CIELAB in planes, which is not read; save it as RGB")
        if image.mode == "P" and max(tags[_COLOURS]) < 256:  # as some programs write them, though 65,535 is white
            image.putpalette(bytes(tags[_COLOURS]), "RGB;L")
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if wide and bits in (12, 16):
        values = np.asarray(image).astype(np.uint32)
        white = 2**bits - 1
        grey = ((values * 255 + white // 2) // white).astype(np.uint8)
        return np.repeat((255 - grey if inverted else grey)[..., None], 3, axis=2)
    if image.mode in ("I", "F") or wide or signed:
        what = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise UnreadableImageError(
            f"{what} values, which leave open what is white; save it with 8 or 16 bits a channel"
        )
    if image.mode in ("La", "RGBa"):  # colours that were multiplied by their opacity
        image = image.convert(image.mode.upper())
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # damaged metadata leave the pixels as they are
        found = image.getexif().get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    return 1
