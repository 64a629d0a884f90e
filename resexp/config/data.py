"""The `data` section: which images, and how they are split and augmented."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from resexp.config.plugins import Choice, PluginRef, registered
from resexp.config.section import Section

HOLDOUT = 0.1
"""Share of the training images that `split: holdout` keeps for validation."""


MAX_RESIZE = 512
"""Side that images may be resized to at most, pixels."""


class _AnyData(Section):
    not_in_signature = frozenset({"path"})
    published_images: ClassVar[int | None] = None
    """Number of training images of a published set, held-out ones included."""

    split: Literal["full", "holdout"] = "full"
    """`full`: train on all training images. `holdout`: keep 10 % for validation (the paper's 45k/5k)."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the choice of held-out images; the same for all runs."""
    resize: Annotated[int, Field(ge=4, le=MAX_RESIZE, multiple_of=4)] | None = None
    """Side to resize images to, pixels (antialiased). Of an image that is not square, only the central square is kept.
    For small machines; changes the experiment. Default: no resizing."""
    pad: Annotated[int, Field(ge=0, le=64)] = 4
    """Zero padding per side before the random crop, pixels; 0 disables cropping."""
    flip: bool = True
    """Flip half of the training images horizontally."""

    @property
    def epoch_images(self) -> int | None:
        """Number of images per epoch; None if it is unknown before the images are read."""
        images: int | None = getattr(self, "train_images", self.published_images)
        return images and images - (round(images * HOLDOUT) if self.split == "holdout" else 0)


class Cifar10Data(_AnyData):
    """The official CIFAR-10 archive; `resexp data fetch` gets it."""

    source: Literal["cifar10"] = "cifar10"
    path: str | None = None
    """Path of cifar-10-python.tar.gz or of the unpacked cifar-10-batches-py. Default: in the data folder."""
    published_images = 50_000


class Cifar100Data(_AnyData):
    """The official CIFAR-100 archive; `resexp data fetch cifar100` gets it."""

    source: Literal["cifar100"]
    path: str | None = None
    """Path of cifar-100-python.tar.gz or of the unpacked cifar-100-python. Default: in the data folder."""
    labels: Literal["fine", "coarse"] = "fine"
    """`fine`: 100 classes. `coarse`: their 20 superclasses."""
    published_images = 50_000


class SvhnData(_AnyData):
    """The official SVHN files of cropped digits, without the extra set; `resexp data fetch svhn` gets them."""

    source: Literal["svhn"]
    path: str | None = None
    """Folder of train_32x32.mat and test_32x32.mat. Default: the data folder."""
    flip: bool = False
    """Flip half of the training images horizontally. Off by default: a flipped digit is another thing."""
    published_images = 73_257


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


SideLength = Annotated[int, Field(ge=32, le=4096)]


class CacheConfig(Section):
    """A one-file cache of resized images (`resexp data prepare`). Resizing changes pixels slightly."""

    side: SideLength
    """Images whose shorter side is longer are resized to this length, pixels (antialiased)."""
    format: Literal["jpeg", "raw"] = "jpeg"
    """`jpeg` stores unresized images byte for byte. `raw` stores pixels: faster to read, ten times as large."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality of resized images."""

    @field_validator("quality")
    @classmethod
    def _only_jpegs_have_it(cls, quality: int, info: ValidationInfo) -> int:
        if info.data.get("format") == "raw" and quality != cls.model_fields["quality"].default:
            raise ValueError("is about JPEGs; leave it out, or set format to jpeg")
        return quality


class ImageNetData(Section):
    """ImageNet, or images in the same layout: `train/<class>/*`, and `val/` in class folders or with a list of
    labels."""

    not_in_signature = frozenset({"path", "max_unreadable", "workers", "timeout"})

    source: Literal["imagenet", "imagefolder"]
    """`imagenet`: ILSVRC 2012. `imagefolder`: other images in the same layout, not compared with the paper."""
    path: str
    """Folder with `train/` and `val/`, relative to the current directory."""
    classes: (
        Annotated[int, Field(ge=2)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
        | None
    ) = None
    """Number of classes to keep (the first in sorted order), or a list of class folders. Default: all."""
    crop: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = 224
    """Side of the square input of the net, pixels."""
    resize_range: Annotated[tuple[SideLength, SideLength], Field(strict=False, validate_default=True)] = (256, 480)
    """Scale augmentation: the shorter side is resized to a random length in this range, ends included."""
    val_resize: Annotated[SideLength, Field(validate_default=True)] = 256
    """Length of the shorter side for the centre crop in evaluations, pixels."""
    flip: bool = True
    """Flip half of the training images horizontally."""
    pca_lighting: bool = True
    """Vary the colours of training images along their principal components (Krizhevsky et al. 2012)."""
    mean: Literal["pixel", "channel"] = "pixel"
    """Mean that is subtracted: per pixel (the paper) or per colour channel."""
    train_eval_images: Annotated[int, Field(ge=1)] = 50_000
    """Number of training images for the clean training error; a fixed subset."""
    cache: CacheConfig | None = None
    """Cache to read images from. Default: read the image files."""
    max_unreadable: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Largest share of unreadable images; with more, a run ends. Unreadable images are replaced by the mean colour."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Reader threads per process. Default: the available cores divided by the number of processes."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds to wait for an image before the run ends with an error that names the file."""

    @property
    def epoch_images(self) -> int | None:
        """Number of images per epoch; None if it is unknown before the images are read."""
        return 1_281_167 if self.source == "imagenet" and self.classes is None else None

    @field_validator("classes", mode="before")
    @classmethod
    def _number_or_names(cls, classes: Any) -> Any:
        if classes is None or (type(classes) is int and classes > 1):
            return classes
        names = classes if isinstance(classes, list | tuple) else ()
        if len(names) < 2 or not all(isinstance(name, str) and name for name in names):
            raise ValueError("expected a number of classes, 2 at least, or a list of their folders' names")
        if len(set(names)) != len(names):
            raise ValueError("a class is listed twice")
        return sorted(names)  # as their labels are

    @field_validator("resize_range", "val_resize", "cache")
    @classmethod
    def _holds_a_crop(cls, value: Any, info: ValidationInfo) -> Any:
        crop = info.data.get("crop", 0)
        if isinstance(value, CacheConfig) and value.side < crop:
            raise ValueError(f"images of {value.side} pixels are smaller than a crop, {crop}")
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("expected the shortest length, then the longest, such as [256, 480]")
        shortest = value[0] if isinstance(value, tuple) else value
        if isinstance(shortest, int) and shortest < crop:
            raise ValueError(f"a crop of {crop} does not fit into {shortest} pixels; set both")
        return value


OfficialData = Cifar10Data | Cifar100Data | SvhnData
"""Image sets that are read from the files that their authors publish."""


class PluginData(_AnyData):
    """Images from a plug-in."""

    source: Annotated[str | PluginRef, Choice("data")]
    """Name of the plug-in, or a mapping with `name` and its options."""


ArrayData = OfficialData | FolderData | ShapesData | PluginData
"""Image sets that are decoded once, into arrays."""

BuiltInData = Annotated[OfficialData | FolderData | ShapesData | ImageNetData, Field(discriminator="source")]


def _which(data: Any) -> str:
    source = data.get("source") if isinstance(data, dict) else getattr(data, "source", None)
    is_plugin = isinstance(source, dict | PluginRef) or (isinstance(source, str) and source in registered("data"))
    return "plugin" if is_plugin else "built-in"


def _with_source(data: Any) -> Any:
    return {"source": Cifar10Data().source, **data} if isinstance(data, dict) else data


DataConfig = Annotated[
    Annotated[BuiltInData, Tag("built-in")] | Annotated[PluginData, Tag("plugin")],
    Discriminator(_which),
    BeforeValidator(_with_source),
]

SOURCES: dict[str, type[Section]] = {
    source: section
    for section in get_args(get_args(BuiltInData)[0])
    for source in get_args(section.model_fields["source"].annotation)
}
"""The data sections by their source."""
