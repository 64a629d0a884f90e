"""The `data` section: which images, and how they are split and augmented."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag

from resexp.config import plugins
from resexp.config.choice import Choice, Custom
from resexp.config.imagenet import ImageNetData
from resexp.config.section import Section

HOLDOUT = 0.1
"""Share of the training images that `split: holdout` keeps for validation."""


class _AnyData(Section):
    mechanics = frozenset({"path"})

    split: Literal["full", "holdout"] = "full"
    """`full`: train on all training images. `holdout`: keep 10 % for validation (the paper's 45k/5k)."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the choice of held-out images; the same for all runs."""
    resize: Annotated[int, Field(ge=4, le=512, multiple_of=4)] | None = None
    """Side to resize images to, pixels (antialiased). For small machines; changes the experiment. Default: no
    resizing."""
    pad: Annotated[int, Field(ge=0, le=64)] = 4
    """Zero padding per side before the random crop, pixels; 0 disables cropping."""
    flip: bool = True
    """Flip half of the training images horizontally."""

    @property
    def epoch_images(self) -> int | None:
        """Number of images per epoch; None if it is unknown before the images are read."""
        images = self._all_images
        return images and images - (round(images * HOLDOUT) if self.split == "holdout" else 0)

    @property
    def _all_images(self) -> int | None:
        """Number of training images, held-out ones included."""
        return None


class Cifar10Data(_AnyData):
    """The official CIFAR-10 archive; `resexp data fetch` gets it."""

    source: Literal["cifar10"] = "cifar10"
    path: str | None = None
    """Path of cifar-10-python.tar.gz or of the unpacked cifar-10-batches-py. Default: in the data folder."""

    @property
    def _all_images(self) -> int:
        return 50_000


class Cifar100Data(_AnyData):
    """The official CIFAR-100 archive; `resexp data fetch cifar100` gets it."""

    source: Literal["cifar100"]
    path: str | None = None
    """Path of cifar-100-python.tar.gz or of the unpacked cifar-100-python. Default: in the data folder."""
    labels: Literal["fine", "coarse"] = "fine"
    """`fine`: 100 classes. `coarse`: their 20 superclasses."""

    @property
    def _all_images(self) -> int:
        return 50_000


class SvhnData(_AnyData):
    """The official SVHN files of cropped digits, without the extra set; `resexp data fetch svhn` gets them."""

    source: Literal["svhn"]
    path: str | None = None
    """Folder of train_32x32.mat and test_32x32.mat. Default: the data folder."""
    flip: bool = False
    """Flip half of the training images horizontally. Off by default: a flipped digit is another thing."""

    @property
    def _all_images(self) -> int:
        return 73_257


class FolderData(_AnyData):
    """Images in `train/<class>/` and `test/<class>/`: a folder, a .zip, or a .tar (also compressed)."""

    source: Literal["folder"]
    path: str
    """Folder or archive, relative to the current directory."""


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
    """Side of an image, pixels."""

    @property
    def _all_images(self) -> int:
        return self.train_images


OfficialData = Cifar10Data | Cifar100Data | SvhnData
"""Image sets that are read from the files that their authors publish."""


class CustomData(_AnyData):
    """Images from a plug-in."""

    source: Annotated[str | Custom, Choice("data")]
    """Name of the plug-in, or a mapping with `name` and its options."""


ArrayData = OfficialData | FolderData | ShapesData | CustomData
"""Image sets that are decoded once, into arrays."""

BuiltInData = Annotated[OfficialData | FolderData | ShapesData | ImageNetData, Field(discriminator="source")]


def _which(data: Any) -> str:
    """Whether raw `data` names a plug-in."""
    source = data.get("source") if isinstance(data, dict) else getattr(data, "source", None)
    is_plugin = isinstance(source, dict | Custom) or (isinstance(source, str) and source in plugins.registered("data"))
    return "plugin" if is_plugin else "built-in"


DataConfig = Annotated[
    Annotated[BuiltInData, Tag("built-in")] | Annotated[CustomData, Tag("plugin")], Discriminator(_which)
]

SOURCES: dict[str, type[Section]] = {
    source: section
    for section in get_args(get_args(BuiltInData)[0])
    for source in get_args(section.model_fields["source"].annotation)
}
"""The data sections by their source."""
