"""The `data` section of ImageNet (He et al. 2015, section 3.4): images of any size, read while a net is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from resexp.config.section import Section

Side = Annotated[int, Field(ge=32, le=4096)]


class PreparedConfig(Section):
    """A cache in one file that images are read from (`resexp data prepare`). It changes pixels, if only slightly."""

    side: Side
    """Images whose shorter side is longer are resized to this many pixels (antialiased)."""
    format: Literal["jpeg", "raw"] = "jpeg"
    """`jpeg` keeps images that need no resizing byte for byte; `raw` keeps pixels: quicker to read, and ten times as
    large."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Of the JPEGs that are made."""

    @field_validator("quality")
    @classmethod
    def _only_jpegs_have_it(cls, quality: int, info: ValidationInfo) -> int:
        if info.data.get("format") == "raw" and quality != cls.model_fields["quality"].default:
            raise ValueError("is about JPEGs; leave it out, or set format to jpeg")
        return quality


class ImageNetData(Section):
    """ImageNet, or images that lie as it does: `train/<class>/*`, and `val/`, sorted too or with the labels beside."""

    mechanics = frozenset({"path", "max_unreadable", "workers", "timeout"})

    source: Literal["imagenet", "imagefolder"]
    """`imagenet`: ILSVRC 2012. `imagefolder`: other images in the same folders, which the paper has no numbers for."""
    path: str
    """The folder with `train/` and `val/`, relative to where the command is run."""
    classes: (
        Annotated[int, Field(ge=2)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
        | None
    ) = None
    """Number of classes to keep (the first in sorted order), or a list of class folders. Default: all."""
    crop: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = 224
    """Pixels a side of what the net sees."""
    resize_range: Annotated[tuple[Side, Side], Field(strict=False)] = (256, 480)
    """Scale augmentation: each time, an image's shorter side is resized to a length drawn from here, ends included."""
    val_resize: Side = 256
    """What the shorter side is resized to for the centre crop that errors are measured on."""
    flip: bool = True
    """Flip half of the training images horizontally."""
    pca_lighting: bool = True
    """Vary the light of training images along the principal components of their colours (Krizhevsky et al. 2012)."""
    mean: Literal["pixel", "channel"] = "pixel"
    """What is subtracted: the mean of each pixel (the paper), or of each colour."""
    train_eval_images: Annotated[int, Field(ge=1)] = 50_000
    """Training images that the clean training error is measured on: always the same; all, where there are fewer."""
    cache: PreparedConfig | None = None
    """Read images from this cache. Default: from the files."""
    max_unreadable: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Share of unreadable images above which a run ends; fewer are shown to the net as the mean colour."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Threads of a process that read images. Default: the cores it may use, shared out among its processes."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds to wait for an image; then the run ends with a line that names the file."""

    @property
    def epoch_images(self) -> int | None:
        """Images in an epoch, as far as they are known before they are read."""
        return 1_281_167 if self.source == "imagenet" and self.classes is None else None

    @field_validator("classes", mode="before")
    @classmethod
    def _number_or_names(cls, classes: Any) -> Any:
        if isinstance(classes, list | tuple) and all(isinstance(name, str) and name for name in classes):
            if len(set(classes)) != len(classes):
                raise ValueError("a class is listed twice")
            many, classes = len(classes) > 1, sorted(classes)  # as their labels are
        else:
            many = classes is None or (type(classes) is int and classes > 1)
        if not many:
            raise ValueError("expected a number of classes, 2 at least, or a list of their folders' names")
        return classes

    @field_validator("resize_range")
    @classmethod
    def _sides_hold_a_crop(cls, sides: tuple[int, int], info: ValidationInfo) -> tuple[int, int]:
        if sides[0] > sides[1]:
            raise ValueError("expected the shortest length, then the longest, such as [256, 480]")
        if "crop" in info.data and sides[0] < info.data["crop"]:
            raise ValueError(f"a crop of {info.data['crop']} does not fit into {sides[0]} pixels; set data.crop too")
        return sides

    @field_validator("val_resize")
    @classmethod
    def _val_side_holds_a_crop(cls, side: int, info: ValidationInfo) -> int:
        if side < info.data.get("crop", 0):
            raise ValueError(f"a crop of {info.data['crop']} does not fit into {side} pixels; set data.crop too")
        return side

    @field_validator("cache")
    @classmethod
    def _cache_holds_a_crop(cls, cache: PreparedConfig | None, info: ValidationInfo) -> PreparedConfig | None:
        if cache and cache.side < info.data.get("crop", 0):
            raise ValueError(f"images of {cache.side} pixels are smaller than a crop, {info.data['crop']}")
        return cache
