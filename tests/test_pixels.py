"""From the bytes of an image file to RGB: for each mode the values that a careful reader of the format would give."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from resexp.data.pixels import decode, orientation, read_image
from resexp.errors import UnreadableImageError

GREY16 = np.array([[0, 1, 128, 129, 12_850], [32_767, 32_768, 40_000, 65_407, 65_535]], dtype=np.uint16)
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(image: Image.Image | np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(values[..., None], 3, axis=2)


def tiff(values: np.ndarray[Any, Any], bits: int, sample: int = 1, photometric: int = 1, **more: Any) -> bytes:
    """An uncompressed TIFF, written by hand: `sample` is 1 for unsigned, 2 for signed integers.

    `values` are (H, W), (H, W, channels), or with `planes` (channels, H, W); `more` are tags by ``_number``.
    """
    planes = list(values) if more.pop("planes", False) else [values]
    height, width = planes[0].shape[:2]
    channels = max(len(planes), values.size // (len(planes) * height * width))
    tags: dict[int, tuple[int, Any]] = {
        256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * channels), 259: (3, [1]), 262: (3, [photometric]),
        273: (4, [8 + i * planes[0].nbytes for i in range(len(planes))]), 277: (3, [channels]), 278: (3, [height]),
        279: (4, [plane.nbytes for plane in planes]), 284: (3, [1 + (len(planes) > 1)]), 339: (3, [sample] * channels),
    }  # fmt: skip
    tags |= {int(name[1:]): (3, value) for name, value in more.items()}
    data = b"".join(plane.tobytes() for plane in planes)
    at, directory, behind = 8 + len(data) + 6 + 12 * len(tags), struct.pack("<H", len(tags)), b""
    for tag, (kind, of) in sorted(tags.items()):
        packed = struct.pack(f"<{len(of)}{'H' if kind == 3 else 'I'}", *of)
        place = struct.pack("<I", at + len(behind)) if len(packed) > 4 else packed.ljust(4, b"\0")
        behind += packed if len(packed) > 4 else b""
        directory += struct.pack("<HHI", tag, kind, len(of)) + place
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4) + behind


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    """65,535 is white, as PNG, TIFF and PGM say; PNG's own rule for fewer bits is to round."""
    want = grey(np.round(GREY16 / 257).astype(np.uint8))
    big = GREY16.astype(">u2").tobytes()
    for data in (
        saved(GREY16, "PNG"),
        saved(GREY16, "TIFF"),
        tiff(GREY16, 16),
        b"P5 5 2 65535 " + big,
        b"P2 5 2 65535 " + b" ".join(b"%d" % v for v in GREY16.flat),
    ):
        assert np.array_equal(read_image(data).pixels, want)
        assert np.array_equal(decode(data), want)


def test_a_tiff_whose_largest_value_is_black_is_inverted() -> None:
    want = grey(255 - np.round(GREY16 / 257).astype(np.uint8))
    assert np.array_equal(read_image(tiff(GREY16, 16, photometric=0)).pixels, want)
    eight = np.arange(10, dtype=np.uint8).reshape(2, 5)
    assert np.array_equal(read_image(tiff(eight, 8, photometric=0)).pixels, grey(255 - eight))


def test_a_tiff_may_store_its_colours_apart() -> None:
    """Without compression, too, where Pillow's own reader takes two bytes for two pixels."""
    wide = RGB.astype(np.uint16) * 257
    assert np.array_equal(read_image(tiff(np.moveaxis(wide, 2, 0), 16, photometric=2, planes=True)).pixels, RGB)
    assert np.array_equal(read_image(tiff(np.moveaxis(RGB, 2, 0), 8, photometric=2, planes=True)).pixels, RGB)
    inks = np.moveaxis(np.dstack([255 - RGB, np.zeros((5, 7), np.uint8)]).astype(np.uint16) * 257, 2, 0)
    assert np.array_equal(read_image(tiff(inks, 16, photometric=5, planes=True)).pixels, RGB)


def test_a_tiff_may_store_one_colour_for_four_pixels() -> None:
    """As YCbCr without compression: four values of brightness, then the two of colour."""
    block = np.array([[255, 0, 128, 64, 128, 128]], np.uint8)
    data = tiff(block, 8, photometric=6, _256=[2], _257=[2], _258=[8] * 3, _277=[3], _278=[2], _530=[2, 2])
    assert np.array_equal(read_image(data).pixels, grey(np.array([[255, 0], [128, 64]])))


@pytest.mark.parametrize("white", [255, 65_535])
def test_the_colours_of_a_tiffs_palette_have_16_bits_or_8(white: int) -> None:
    colours = [*[white, 0, 0], *[0] * 253, *[0, white, 0], *[0] * 253, *[0, 0, white], *[0] * 253]
    data = tiff(np.array([[0, 1, 2]], np.uint8), 8, photometric=3, _320=colours)
    assert np.array_equal(read_image(data).pixels, [255 * np.eye(3)])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (saved(np.ones((2, 2), dtype=np.float32), "TIFF"), "floating-point values"),
        (tiff(RGB[..., 0], 8).replace(struct.pack("<HH", 262, 3), struct.pack("<HH", 263, 3)), "whether 0 is black"),
        (tiff(np.moveaxis(RGB, 2, 0), 8, photometric=8, planes=True), "CIELAB in planes"),
        (b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5), "without width, height|floating-point values"),
        (saved(np.ones((2, 2), dtype=np.int32), "TIFF"), "signed or 32-bit values"),
        (tiff(GREY16.astype(np.int16), 16, sample=2), "signed or 32-bit values"),
    ],
)
def test_values_that_leave_open_what_is_white_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableImageError, match=why):
        read_image(data)


def test_colours_of_16_bits_are_right_within_one_level() -> None:
    values = np.array([[[500, 30_000, 65_535]]], dtype=">u2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + values.tobytes())) + chunk(b"IEND", b"")
    for data in (png, b"P6 1 1 65535 " + values.tobytes()):
        assert np.abs(read_image(data).pixels.astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(RGB[..., 0]), grey(RGB[..., 0])),
        (Image.fromarray(RGB[..., 0] > 99), grey(255 * (RGB[..., 0] > 99).astype(np.uint8))),
        (Image.fromarray(np.dstack([RGB, RGB[..., 0]])), RGB),
        (Image.fromarray(np.dstack([RGB[..., 0], RGB[..., 1]])), grey(RGB[..., 0])),
        (Image.fromarray(RGB).quantize(256), None),
    ],
    ids=["RGB", "L", "1", "RGBA", "LA", "P"],
)
def test_every_mode_of_8_bits_has_the_values_of_the_file(image: Image.Image, want: np.ndarray[Any, Any] | None) -> None:
    found = read_image(saved(image, "PNG"))
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")) if want is None else want)
    assert found.transparent == (image.mode in ("RGBA", "LA"))
    assert found.pixels.flags.writeable


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photograph_stands_as_its_exif_data_say(turned: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    data = saved(RGB, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(read_image(data).pixels, want)
    assert decode(data).shape == want.shape
    if kind == "JPEG":
        assert orientation(data) == turned
        assert np.abs(decode(data).astype(int) - want).max() <= 2  # another decoder of the same pixels
    else:
        assert np.array_equal(decode(data), want)


def test_other_metadata_may_come_before_the_exif_data() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(RGB, "JPEG", exif=exif)
    data = whole[:2] + 2 * (b"\xff\xed\xea\x60" + b"x" * 59_998) + whole[2:]
    assert orientation(data) == 6
    assert decode(data).shape == read_image(data).pixels.shape == (7, 5, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_phones_video_may_follow_the_image(progressive: bool) -> None:
    """In 8 MB of it, two bytes that begin a scan elsewhere are found 120 times."""
    data = saved(RGB, "JPEG", progressive=progressive)
    for read in (lambda image: read_image(image).pixels, decode):
        assert np.array_equal(read(data + b"\xff\xda" * 120), read(data))


def test_a_damaged_orientation_leaves_the_pixels_as_they_are() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert np.array_equal(read_image(saved(RGB, "PNG", exif=exif)).pixels, RGB)
    broken = saved(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_image(broken).pixels, RGB)


def test_of_several_frames_the_first_is_taken_and_said() -> None:
    other = Image.fromarray(255 - RGB)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        found = read_image(saved(RGB, kind, save_all=True, append_images=[other], **options))
        assert found.frames
        assert np.array_equal(found.pixels, RGB)
    assert not read_image(saved(RGB, "PNG")).frames


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "of the kind HEIC, which is not read"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF"),
        (b"%PDF-1.7", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file"),
        (b"\0\0\1\0\1\0", "an icon"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL"),
        (b"PF\n1 1\n-1.0\n" + bytes(12), "a PFM image"),
        (saved(Image.new("P", (2, 2)), "PNG").replace(b"PLTE", b"tExt"), "a PNG, but damaged"),
    ],
)
def test_what_is_no_image_is_named_without_an_address(data: bytes, what: str) -> None:
    for read in (read_image, decode):
        with pytest.raises(UnreadableImageError, match=what) as error:
            read(data)
        assert "0x" not in f"{error.value}"


def _jpeg_with(segment: bytes, times: int) -> bytes:
    whole = saved(RGB, "JPEG")
    return whole[:2] + segment * times + whole[2:]


def _with_scans(count: int, **options: Any) -> bytes:
    """The last scan of a JPEG again and again."""
    whole = saved(RGB, "JPEG", **options)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def _png_with_chunks(count: int) -> bytes:
    whole = saved(RGB, "PNG")
    chunk = bytes(4) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return whole[:33] + chunk * count + whole[33:]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: _jpeg_with(b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527), 1500), "16,777,216 bytes of metadata"),
        (lambda: _jpeg_with(b"\xff\xe5\0\2", 1 << 20), "over 1,000 segments of metadata"),
        (lambda: _with_scans(101, progressive=True), "over 100 scans"),
        (lambda: _with_scans(101, progressive=False), "over 100 scans"),
        (lambda: _png_with_chunks(1 << 20), "over 100,000 chunks"),
        (lambda: b"P3" + b" " * (50 << 20) + b"1 1 255 1 2 3", "in its first 4,096 bytes"),
        (lambda: b"P3 1 1 255 " + b" " * (50 << 20) + b"1 2 3", "save it as PNG"),
        (lambda: b"P6 4096 2048 254 " + bytes(3 * 4096 * 2048), "save it as PNG"),
        (lambda: b"P6 #" + b"x" * (50 << 20) + b"\n1 1 255 abc", "in its first 4,096 bytes"),
    ],
)
def test_the_work_for_one_file_is_bounded(make: Any, why: str) -> None:
    """Each took Pillow from seconds to minutes."""
    data = make()
    for read in (read_image, decode):
        began = time.process_time()
        with pytest.raises(UnreadableImageError, match=why):
            read(data)
        assert time.process_time() - began < 2


def test_a_photograph_of_24_million_pixels_is_read() -> None:
    image = Image.new("RGB", (6000, 4000), (9, 99, 199))
    assert read_image(saved(image, "PNG")).pixels[3999, 5999].tolist() == [9, 99, 199]


def test_signed_values_are_refused_at_8_bits_too() -> None:
    """Where 0 is the middle or black is left open, as with 16 bits."""
    values = np.array([[0, 50], [200, 255]], dtype=np.uint8)
    assert np.array_equal(read_image(tiff(values, 8)).pixels, grey(values))
    with pytest.raises(UnreadableImageError, match="signed or 32-bit values"):
        read_image(tiff(values, 8, sample=2))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tiff(np.zeros((2, 2)), 64, sample=3), "a TIFF"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 20, "Truncated"),
        (b"GIF89a" + bytes(30), "a GIF"),
        (b"RIFF\x10\0\0\0WEBPxxxx", "a WebP"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "a JPEG"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nENDHDR\n", "a PAM image"),
        (b"PAR1" + bytes(20), "a Parquet table"),
        (b"<?xml version='1.0'?><Error/>", "an XML text"),
    ],
)
def test_an_image_of_a_kind_that_is_not_read_is_not_called_no_image(data: bytes, what: str) -> None:
    for read in (read_image, decode):
        with pytest.raises(UnreadableImageError, match=what) as error:
            read(data)
        assert "not an image" not in f"{error.value}"


def test_warnings_of_pillow_are_neither_shown_nor_made_errors() -> None:
    """A palette with degrees of opacity, and damaged metadata: Pillow warns, and PYTHONWARNINGS=error would raise."""
    palette = saved(Image.fromarray(RGB).quantize(9), "PNG", transparency=bytes(range(9)))
    damaged = saved(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\x1a\0\0\0")
    code = (
        "import sys, resexp.data.pixels as p\n"
        "for image in sys.argv[1:]: print(p.read_image(bytes.fromhex(image)).pixels.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, palette.hex(), damaged.hex()], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("(5, 7, 3)\n" * 2, "")
