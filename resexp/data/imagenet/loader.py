"""What a net sees of an image, and threads that read, decode and crop images into the batches of a training loop.

What is random is a pure function of (seed, epoch, position); nothing depends on which thread does it, or when. Threads
and not processes: decoding and resizing release Python's lock, and pixels are written straight into the batch.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from resexp.config import ImageNetData
from resexp.data.imagenet.dataset import ImageNet
from resexp.data.imagenet.tree import Split
from resexp.data.pixels import Pixels
from resexp.errors import UnreadableImageError, UserError
from resexp.utils.text import few

LIGHTING = 0.1
"""Standard deviation of the amounts of light (Krizhevsky et al. 2012, section 4.1)."""
_POLL_S = 1.0
"""Seconds between checks for stuck threads."""
_JOIN_S = 2.0
"""How long threads are waited for at the end; one that is stuck dies with the process."""


class View(NamedTuple):
    """A crop of an image whose shorter side has been resized to `side`, aspect ratio kept (section 3.4)."""

    side: int
    fy: float
    """Where the crop lies, from 0, at the top, to 1, at the bottom; drawn from [0, 1), all places are as likely."""
    fx: float
    flip: bool

    def box(self, shape: tuple[int, ...], crop: int) -> tuple[int, int, int]:
        """The square that becomes the crop, of an image of this shape (H, W, ...): top, left and side, whole pixels.

        To resize the part alone costs less than to resize the whole. Its side is rounded to whole pixels, so that the
        scale may be off by half a pixel in the box, some 0.2 %.
        """
        assert crop <= self.side
        height, width = shape[:2]
        side = max(round(crop * min(height, width) / self.side), 1)
        top, left = int(self.fy * (height - side + 1)), int(self.fx * (width - side + 1))
        return min(top, height - side), min(left, width - side), side

    def crop(self, image: Pixels, size: int) -> Pixels:
        """The crop of an image (H, W, 3), `size` pixels a side."""
        top, left, side = self.box(image.shape, size)
        part = image[top : top + side, left : left + side]
        resized = part if side == size else resize(part, size, size)
        return resized[:, ::-1] if self.flip else resized


def centre(side: int) -> View:
    """The crop in the middle."""
    return View(side, 0.5, 0.5, False)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """An image (H, W, 3) in another size: bilinear, and antialiased where it gets smaller."""
    # numpy copies where an image is a part of another: torch would start threads for it in each thread of a loader.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


class EpochPlan(NamedTuple):
    """One epoch: for each position the image and what is done to it, arrays (n,), `lighting` (n, 3)."""

    image: NDArray[np.int64]
    side: NDArray[np.int64]
    fy: NDArray[np.float64]
    fx: NDArray[np.float64]
    flip: NDArray[np.bool_]
    lighting: NDArray[np.float32]
    """How much of each principal component is added; zeros with ``pca_lighting: false``."""

    def view(self, position: int) -> View:
        """What is seen of the image at this position."""
        return View(*(column[position].item() for column in (self.side, self.fy, self.fx, self.flip)))


def plan(seed: int, epoch: int, n: int, data: ImageNetData) -> EpochPlan:
    """One epoch of `n` training images, each once; scales, crops, flips and light as `data` says.

    All is drawn, whether it is used or not: so what is switched off leaves the rest as it was.
    """
    rng = np.random.default_rng((seed, epoch))
    image = rng.permutation(n)
    side = rng.integers(*data.resize_range, n, endpoint=True)
    fy, fx = rng.random((2, n))
    flip = rng.random(n) < 0.5
    lighting = rng.normal(0, LIGHTING, (n, 3)).astype(np.float32)
    return EpochPlan(image, side, fy, fx, flip & data.flip, lighting * np.float32(data.pca_lighting))


class ImageRequest(NamedTuple):
    """An image, and what is to be seen of it."""

    part: Split
    image: int
    view: View


class Pending:
    """A batch that is being read."""

    def __init__(self, loader: Loader, images: list[Future[Pixels]]) -> None:
        self._loader, self._images = loader, images

    def wait(self) -> NDArray[np.int64]:
        """Wait until the whole batch is read; the places of images that could not be read, mostly none.

        Raises UserError if an image does not come in time, or too many can't be read.
        """
        loader = self._loader
        overdue: set[tuple[float, ImageRequest]] = set()
        while futures.wait(self._images, min(_POLL_S, loader.timeout)).not_done:
            # Seen twice: where the process itself was stopped for a while, its threads get time to continue.
            again = overdue & (overdue := loader.overdue())
            if again:
                _, request = min(again)
                raise UserError(
                    f"{loader.dataset.file(request.part, request.image)}: did not come within {loader.timeout:g} s "
                    f"(data.timeout); see whether the disk or the network's file system hangs"
                )
            loader.waiting()
        return np.flatnonzero([image.result() is loader.blank for image in self._images])

    @property
    def images(self) -> list[Pixels]:
        """The images, once they have been waited for."""
        return [image.result() for image in self._images]


class Loader(contextlib.AbstractContextManager["Loader"]):
    """Threads that fill batches. To be closed, or used in a ``with``."""

    def __init__(
        self, dataset: ImageNet, workers: int, timeout: float, colour: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        """`workers` threads decode images. An image that takes longer than `timeout` seconds is reported; one that
        can't be read becomes `colour`, in [0, 1]."""
        self.dataset, self.timeout = dataset, timeout
        self.waiting: Callable[[], None] = lambda: None
        """Called about once a second by whoever waits for a batch; what it raises ends the wait."""
        self.blank = np.broadcast_to(np.round(np.asarray(colour) * 255).astype(np.uint8), (*dataset.size, 3))
        """What stands for an image that can't be read."""
        self._jobs: queue.SimpleQueue[tuple[Future[Pixels], ImageRequest, Pixels | None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy: dict[int, tuple[float, ImageRequest]] = {}
        # Daemons, which no pool has: a read that never returns must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=f"images-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def load(self, requests: Sequence[ImageRequest], out: Pixels | None = None) -> Pending:
        """Begin to fill `out`, (n, crop, crop, 3), with one crop for each of the n requests.

        Without `out`, the images themselves are read, whatever their sizes: see `Pending.images`.
        """
        images: list[Future[Pixels]] = [Future() for _ in requests]
        for place, (image, request) in enumerate(zip(images, requests, strict=True)):
            self._jobs.put((image, request, None if out is None else out[place]))
        return Pending(self, images)

    def close(self) -> None:
        """Forget what is queued, and let the threads end."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        latest = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))

    def overdue(self) -> set[tuple[float, ImageRequest]]:
        """What has been read for too long, each with the time at which it was begun."""
        latest = time.monotonic() - self.timeout
        return {(since, request) for since, request in list(self._busy.values()) if since < latest}

    def _work(self) -> None:
        me = threading.get_ident()
        while (job := self._jobs.get()) is not None:
            image, request, out = job
            self._busy[me] = (time.monotonic(), request)
            try:
                image.set_result(self._read(request, out))
            except BaseException as error:  # it is raised where the batch is waited for
                image.set_exception(error)
            del self._busy[me]

    def _read(self, request: ImageRequest, out: Pixels | None) -> Pixels:
        """The image, or a crop of it in `out`; `blank` if it can't be read."""
        try:
            image = self.dataset.pixels(request.part, request.image, None if out is None else request.view.side)
        except UnreadableImageError:
            self._count_unreadable(request)
            if out is not None:
                out[:] = self.blank[0, 0]
            return self.blank
        if out is None:
            return image
        out[:] = request.view.crop(image, len(out))
        return out

    def _count_unreadable(self, request: ImageRequest) -> None:
        """Raise UserError if there are too many."""
        dataset, part = self.dataset, request.part
        with self._lock:
            dataset.unreadable.add(dataset.shown(part, request.image))
            names = sorted(name for name in dataset.unreadable if name.startswith(f"{part}/"))
        share = dataset.config.max_unreadable
        if len(names) > share * dataset.images(part):
            raise UserError(
                f"{dataset.root}: {len(names):,} of {dataset.images(part):,} {part} images can't be read, over "
                f"{share:.3%} (data.max_unreadable): {few(names)}; `resexp data check` names them all"
            )
