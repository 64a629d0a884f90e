"""The `data` section of ImageNet (He et al. 2015, section 3.4): images of any size, read while a net is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from resexp.config.section import Section

Side = Annotated[int, Field(ge=32, le=4096)]


class PreparedConfig(Section):
    """A one-file cache of resized images (`resexp data prepare`). Resizing changes pixels slightly."""

    side: Side
    """Longest allowed shorter side, pixels. Larger images are resized to it (antialiased)."""
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

    mechanics = frozenset({"path", "max_unreadable", "workers", "timeout"})

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
    resize_range: Annotated[tuple[Side, Side], Field(strict=False)] = (256, 480)
    """Scale augmentation: the shorter side is resized to a random length in this range, ends included."""
    val_resize: Side = 256
    """Length of the shorter side for the centre crop in evaluations, pixels."""
    flip: bool = True
    """Flip half of the training images horizontally."""
    pca_lighting: bool = True
    """Vary the colours of training images along their principal components (Krizhevsky et al. 2012)."""
    mean: Literal["pixel", "channel"] = "pixel"
    """Mean that is subtracted: per pixel (the paper) or per colour channel."""
    train_eval_images: Annotated[int, Field(ge=1)] = 50_000
    """Number of training images for the clean training error; a fixed subset."""
    cache: PreparedConfig | None = None
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
