"""The `data` section: which images, and how they are split and augmented."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from resexp.config.imagenet import ImageNetData
from resexp.config.section import Section

HOLDOUT = 0.1
"""Share of the training images that `split: holdout` keeps for validation."""


class _AnyData(Section):
    mechanics = frozenset({"path"})

    split: Literal["full", "holdout"] = "full"
    """`full` trains on all training images; `holdout` keeps 10 % of them for validation (the paper's 45k/5k)."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which images are held out; the same for every run of the study."""
    resize: Annotated[int, Field(ge=4, le=512, multiple_of=4)] | None = None
    """Resize images to this many pixels a side (antialiased). For small machines; changes the experiment."""
    pad: Annotated[int, Field(ge=0, le=64)] = 4
    """Zero padding in pixels on each side before the random crop; 0 turns cropping off."""
    flip: bool = True
    """Flip half of the training images horizontally."""

    @property
    def epoch_images(self) -> int | None:
        """Images in an epoch, as far as they are known before they are read."""
        images = self._all_images
        return images and images - (round(images * HOLDOUT) if self.split == "holdout" else 0)

    @property
    def _all_images(self) -> int | None:
        """Training images, with those held out for validation."""
        return None


class Cifar10Data(_AnyData):
    """The official CIFAR-10 archive; `resexp data fetch` gets it."""

    source: Literal["cifar10"] = "cifar10"
    path: str | None = None
    """Where cifar-10-python.tar.gz or the unpacked cifar-10-batches-py lies, if not in the data folder."""

    @property
    def _all_images(self) -> int:
        return 50_000


class FolderData(_AnyData):
    """Images in `train/<class>/` and `test/<class>/`, in a folder, or a .zip or (compressed) .tar of one."""

    source: Literal["folder"]
    path: str
    """The folder or archive, relative to where the command is run."""


class ShapesData(_AnyData):
    """Procedural images: coloured, textured shapes in ten classes; needs no download."""

    source: Literal["shapes"]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the image generator."""
    train_images: Annotated[int, Field(ge=100, le=1_000_000)] = 5000
    """Number of training images."""
    test_images: Annotated[int, Field(ge=100, le=1_000_000)] = 1000
    """Number of test images."""
    size: Annotated[int, Field(ge=8, le=128, multiple_of=4)] = 16
    """Pixels a side."""

    @property
    def _all_images(self) -> int:
        return self.train_images


ArrayData = Cifar10Data | FolderData | ShapesData
"""Image sets that are decoded once, into arrays."""

DataConfig = Annotated[Cifar10Data | FolderData | ShapesData | ImageNetData, Field(discriminator="source")]

SOURCES: dict[str, type[Section]] = {
    source: section
    for section in get_args(get_args(DataConfig)[0])
    for source in get_args(section.model_fields["source"].annotation)
}
"""The data sections by their source."""
