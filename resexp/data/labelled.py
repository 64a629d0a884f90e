"""Images to test a net on: in folders with the names of its classes, at any depth, or in an archive of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from resexp.data.archive import contents, members
from resexp.data.imagenet.labels import label_files, val_wnids
from resexp.data.imagenet.loader import centre
from resexp.data.images import resized
from resexp.data.layout import TEST, Parts, is_hidden, is_image, is_test, is_train, nfc, rank
from resexp.data.pixels import Pixels, decode, read_image
from resexp.errors import UnreadableImageError, UserError, sanitize
from resexp.utils.logs import log
from resexp.utils.machine import cores
from resexp.utils.parallel import prefetch
from resexp.utils.text import counted, few


class _Image(NamedTuple):
    """What the folders of an image say."""

    folders: Parts
    label: int | None
    split: Parts
    """The folder of training or test images that it lies in; empty without one."""

    @property
    def is_test(self) -> bool:
        return bool(self.split) and is_test(self.split[-1])


def find_labels(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """The label of each image in the set at `path`, by the image's name in it.

    The innermost folder with the name of a class gives the label, whatever the class is called. Where the set has test
    images, these alone count, of folders with several names those of the first in TEST, as for a dataset; training
    images never count. Warnings count what is left out of test images. Raises UserError if none is left.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder or archive")
    found = _find(path, {nfc(name): label for label, name in enumerate(classes)})
    if names := {image.split[-1] for image in found.values() if image.is_test and image.label is not None}:
        taken = min(names, key=lambda name: rank(name, TEST))
        beside = Counter("/".join(of.split) for of in found.values() if of.is_test and of.split[-1] in names - {taken})
        if beside:
            images = f"{counted(beside.total(), 'image')} in {sanitize(few(sorted(beside)))}"
            log.warning(f"{path}: {images} left out; the test images are those in {sanitize(taken)}")
        found = {name: image for name, image in found.items() if image.split[-1:] == (taken,)}
    else:
        found = {name: image for name, image in found.items() if image.is_test or not image.split}
    known = {name: image.label for name, image in sorted(found.items()) if image.label is not None}
    others = Counter("/".join(image.folders) or "no folder" for image in found.values() if image.label is None)
    where = sanitize(few([folder for folder, _ in others.most_common()]))
    if not known and (labelled := _by_label_files(path, classes)):
        return labelled
    if not known:
        instead = f"they are in {where}" if others else "there are none"
        raise UserError(
            f"{path}: no test images in folders with the names of the net's classes ({few(list(classes))}); {instead}"
        )
    if others:
        log.warning(f"{path}: {others.total():,} images in no class of the net's left out: {where}")
    return known


def _by_label_files(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """The labels of the images in a flat `val/` of ImageNet's, `path` or a folder in it; none without label files."""
    val = next((folder for folder in (path, path / "val") if folder.is_dir() and folder.name == "val"), None)
    files = label_files(val.parent) if val else []
    if val is None or not files:
        return {}
    names = [name for name in members(val) if is_image(name) and not is_hidden(*PurePosixPath(name).parts)]
    labels = {name: label for label, name in enumerate(classes)}
    found = zip(names, val_wnids(files, val, names), strict=True)
    return {str((val / name).relative_to(path)): labels[wnid] for name, wnid in sorted(found) if wnid in labels}


def _find(path: Path, labels: dict[str, int]) -> dict[str, _Image]:
    """All images of a set, by their names in it."""
    found = {}
    for name in members(path):
        parts = PurePosixPath(nfc(name.replace("\\", "/"))).parts
        if name.endswith(("/", "\\")) or not is_image(name) or is_hidden(*parts):
            continue
        folders = parts[:-1]
        of_class = max((i for i, folder in enumerate(folders) if folder in labels), default=len(folders))
        # The nearest one above the class, whose own name may be that of a split; else one inside the class.
        places = [*reversed(range(of_class)), *range(of_class + 1, len(folders))]
        split = next((i for i in places if is_train(folders[i]) or is_test(folders[i])), -1)
        label = labels[folders[of_class]] if of_class < len(folders) else None
        found[name] = _Image(folders, label, folders[: split + 1])
    return found


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
