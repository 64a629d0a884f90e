"""Images to test a net on: in folders with the names of its classes, at any depth, or in an archive of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from resexp.data.archive import contents, members
from resexp.data.imagenet.loader import centre
from resexp.data.images import resized
from resexp.data.layout import is_hidden, is_image, is_test, is_train, nfc
from resexp.data.pixels import Pixels, decode, read_image
from resexp.errors import UnreadableImageError, UserError, sanitize
from resexp.utils.machine import cores
from resexp.utils.parallel import prefetch
from resexp.utils.text import few

log = logging.getLogger(__name__)


def find_labels(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """The label of each image in the set at `path`, by the image's name in it.

    The innermost folder with the name of a class gives the label. Where the set has test images, these alone count,
    and training images never do. A warning counts images in no such folder. Raises UserError if none is left.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder or archive")
    labels = {nfc(name): label for label, name in enumerate(classes)}
    found: dict[str, tuple[str, ...]] = {}
    for name in members(path):
        parts = PurePosixPath(nfc(name.replace("\\", "/"))).parts
        if not name.endswith(("/", "\\")) and is_image(name) and not is_hidden(*parts):
            found[name] = parts[:-1]
    held_out = {name: folders for name, folders in found.items() if any(map(is_test, folders))}
    found = held_out or {name: folders for name, folders in found.items() if not any(map(is_train, folders))}
    known = {name: [labels[folder] for folder in folders if folder in labels] for name, folders in found.items()}
    others = Counter("/".join(found[name]) or "no folder" for name, of in known.items() if not of)
    where = sanitize(few([folder for folder, _ in others.most_common()]))
    if not any(known.values()):
        instead = f"they are in {where}" if others else "there are none"
        raise UserError(
            f"{path}: no test images in folders with the names of the net's classes ({few(list(classes))}); {instead}"
        )
    if others:
        log.warning(f"{path}: {others.total():,} images in no class of the net's left out: {where}")
    return {name: of[-1] for name, of in sorted(known.items()) if of}


def read_labelled(
    path: Path, labels: dict[str, int], size: tuple[int, int], val_resize: int | None
) -> Iterator[tuple[Pixels, int]]:
    """Each image, uint8 (H, W, 3) of this `size`, and its label, by several threads.

    Images of another size are resized, the central square of them; with `val_resize`, as a streamed set's for
    evaluation. Raises UserError if one can't be read.
    """

    def work(member: tuple[str, bytes]) -> tuple[Pixels, int]:
        name, content = member
        try:
            return _fitted(content, size, val_resize), labels[name]
        except UnreadableImageError as error:
            raise UserError(
                f"{path}: {sanitize(name)} can't be read ({error}); restore it, or move it out of the set"
            ) from None

    return prefetch(work, contents(path, labels), cores())


def _fitted(content: bytes, size: tuple[int, int], val_resize: int | None) -> Pixels:
    if val_resize is not None:
        return centre(val_resize).crop(decode(content, val_resize), size[0])
    image = read_image(content).pixels
    if image.shape[:2] == size:
        return image
    if size[0] != size[1]:
        height, width = image.shape[:2]
        raise UnreadableImageError(f"{width}x{height} pixels, and the net was trained on {size[1]}x{size[0]}")
    return resized(image, size[0])
