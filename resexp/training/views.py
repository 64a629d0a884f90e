"""A finished run tested on several views of each image: ten crops, or several scales.

A net's probabilities are averaged over the views, after the softmax: so is the ten-crop test defined (Krizhevsky et al.
2012, section 4.1), and so are scales averaged by Simonyan and Zisserman (2014, section 4.2), whose form of testing He
et al. 2015 (section 3.4) adopt. Over the places of one larger view, the nets' global pooling averages the features,
which equals averaging the logits of the fully convolutional form, for the last layer is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.data import open_dataset
from resexp.data.loader import normalise, pixel_mean
from resexp.errors import UserError
from resexp.models import build_model
from resexp.store import Run
from resexp.study import load_run
from resexp.training import checkpoint
from resexp.training.evaluate import EVAL_BATCH
from resexp.training.hardware import choose, tune_process

STRIDE = 4
"""What the sides of a view must be divisible by, as those of the data."""


def ten_crop(images: Tensor, crop: int) -> Tensor:
    """(B, 3, H, W) -> (10, B, 3, crop, crop): the four corners and the centre, then the flip of each."""
    height, width = images.shape[2:]
    down, right = height - crop, width - crop
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    crops = torch.stack([images[:, :, top : top + crop, left : left + crop] for top, left in corners])
    return torch.cat([crops, crops.flip(-1)])


def rescaled(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> the same images with a shorter side of `side` pixels, bilinear and antialiased.

    The longer side keeps the proportion, to the nearest multiple of STRIDE.
    """
    height, width = images.shape[2:]
    longer = round(max(height, width) * side / min(height, width) / STRIDE) * STRIDE
    size = [side, longer] if height <= width else [longer, side]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class SingleView:
    """The image as it is."""

    name: ClassVar[str] = "single-view"

    def check(self, height: int, width: int) -> None:
        """Any image of the data will do."""

    def views(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one view of this shape."""
        return [images]


@dataclass(frozen=True)
class TenCrop:
    """The four corners and the centre of `crop` pixels a side, and their flips (Krizhevsky et al. 2012)."""

    crop: int = 224
    name: ClassVar[str] = "ten-crop"

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest view."""
        return self.crop

    def check(self, height: int, width: int) -> None:
        """Raise UserError unless images of `height` x `width` pixels have such crops."""
        limit = min(height, width)
        if self.crop < STRIDE or self.crop % STRIDE or self.crop > limit:
            raise UserError(
                f"ten-crop: a crop of {self.crop} pixels from images of {width}x{height}; name a multiple of {STRIDE} "
                f"up to {limit}, such as {max(limit * 7 // 8 // STRIDE, 1) * STRIDE} (the paper's 224 of 256 is 7/8)"
            )

    def views(self, images: Tensor) -> Iterable[Tensor]:
        """(B, 3, H, W) -> ten views (B, 3, crop, crop)."""
        return ten_crop(images, self.crop)


@dataclass(frozen=True)
class MultiScale:
    """The whole image with each of these shorter sides (He et al. 2015, section 3.4); it names no flips."""

    sides: tuple[int, ...] = (224, 256, 384, 480, 640)
    name: ClassVar[str] = "multi-scale"

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest view."""
        return min(self.sides)

    def check(self, height: int, width: int) -> None:
        """Raise UserError unless each side is one that the nets can take, and there are any."""
        wrong = [side for side in self.sides if side < STRIDE or side % STRIDE]
        if wrong or len(set(self.sides)) != len(self.sides) or not self.sides:
            raise UserError(
                f"multi-scale: sides {', '.join(map(str, self.sides)) or 'none'}; "
                f"name different multiples of {STRIDE}, such as {min(height, width)}"
            )

    def views(self, images: Tensor) -> Iterable[Tensor]:
        """(B, 3, H, W) -> one view a side."""
        return (rescaled(images, side) for side in self.sides)


Mode = SingleView | TenCrop | MultiScale


class Viewed(NamedTuple):
    """What a test on views found."""

    error: float
    """The share of wrong predictions, in [0, 1]."""
    probabilities: Tensor
    """float64 (N, classes) on the CPU: the mean over the views."""
    views: int
    """Of each image."""


@torch.inference_mode()
def evaluate_views(
    model: nn.Module, images: Tensor, mean: Tensor, labels: Tensor, mode: Mode, batch: int = EVAL_BATCH
) -> Viewed:
    """Test `model`, in eval mode, on the views of uint8 images (N, H, W, 3) with labels (N,), `batch` images at a time.

    `mean` (H, W, 3) is what is subtracted, on the model's device. Of larger views fewer go through the net at a time,
    so that they need no more memory. Raises UserError for a mode that the images' size does not allow.
    """
    height, width = images.shape[1:3]
    mode.check(height, width)
    model.eval()
    found, number = [], 0
    for part in torch.split(images, batch):
        of_views = []
        for view in mode.views(normalise(part.to(mean.device), mean)):
            at_once = max(1, batch * height * width // max(height * width, view[0, 0].numel()))
            logits = torch.cat([model(few).float() for few in torch.split(view, at_once)])
            # float64, or logits that differ in their last bit could become a tie: one view must count as no view does.
            of_views.append(logits.cpu().double().softmax(1))
        number = len(of_views)
        found.append(torch.stack(of_views).mean(0))
    probabilities = torch.cat(found)
    wrong = int((probabilities.argmax(1) != labels.cpu()).sum())
    return Viewed(wrong / len(labels), probabilities, number)


def evaluate_run(run: Run, mode: Mode, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Test the final weights of a finished run on the views of the test images, in the run's device and precision.

    Returns the mode with its settings, the number of views, and the errors, fractions in [0, 1]: with the views, and
    with a single view in the same way. `say` hears of slow work. Raises UserError where the run is not finished, its
    weights or its data are not there any more, or the images do not allow the mode.
    """
    manifest, config = run.manifest(), load_run(run.config_path)
    if (state := run.status().state) != "finished" or manifest is None:
        raise UserError(
            f"{run.folder}: {state}, and only a finished run is tested; finish it with resexp train {run.folder}"
        )
    dataset = open_dataset(config.data, say)
    if dataset.fingerprint != manifest.data.fingerprint:
        raise UserError(
            f"{run.folder}: trained on other data (fingerprint {manifest.data.fingerprint}, now "
            f"{dataset.fingerprint}); bring the old data back"
        )
    train_images, (images, labels) = torch.from_numpy(dataset.train()[0]), map(torch.from_numpy, dataset.test())
    mode.check(*images.shape[1:3])
    if not isinstance(mode, SingleView) and mode.smallest < config.model.smallest_side:
        raise UserError(f"{run.folder}: a view of {mode.smallest} pixels; its net needs {config.model.smallest_side}")
    last = manifest.attempts[-1]
    tune_process(last.threads)
    hardware = choose(config.train, last.precision, say)
    model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last)
    checkpoint.into(model, checkpoint.final_weights(run)[1], run.folder)
    model.to(hardware.device)
    mean = pixel_mean(train_images, torch.from_numpy(dataset.train_index)).to(hardware.device)
    batch = min(EVAL_BATCH, 4 * config.train.batch_size)
    with torch.autocast(hardware.device.type, hardware.dtype, enabled=hardware.precision != "fp32"):
        single = evaluate_views(model, images, mean, labels, SingleView(), batch)
        several = evaluate_views(model, images, mean, labels, mode, batch)
    return {
        "mode": mode.name,
        **asdict(mode),
        "views": several.views,
        "test_error": several.error,
        "single_view_test_error": single.error,
    }
