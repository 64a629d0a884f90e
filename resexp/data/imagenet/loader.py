"""Threads that read, decode and crop images into the batches of a training loop.

What is random is a pure function of (seed, epoch, position); nothing depends on which thread does it, or when. Threads
and not processes: decoding and resizing release Python's lock, and pixels are written straight into the batch.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resexp.config import ImageNetData
from resexp.data.imagenet.dataset import ImageNet
from resexp.data.imagenet.tree import Part
from resexp.data.imagenet.views import View, crop_resize
from resexp.data.naming import few
from resexp.data.pixels import Pixels
from resexp.errors import UnreadableImageError, UserError

LIGHTING = 0.1
"""Standard deviation of the amounts of light (Krizhevsky et al. 2012, section 4.1)."""
_LOOK_S = 1.0
"""Seconds between checks for stuck threads."""
_PART_S = 2.0
"""How long threads are waited for at the end; one that is stuck dies with the process."""


class Plan(NamedTuple):
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
        side, fy, fx, flip = (column[position] for column in (self.side, self.fy, self.fx, self.flip))
        return View(int(side), float(fy), float(fx), bool(flip))


def plan(seed: int, epoch: int, n: int, data: ImageNetData) -> Plan:
    """One epoch of `n` training images, each once; scales, crops, flips and light as `data` says.

    All is drawn, whether it is used or not: so what is switched off leaves the rest as it was.
    """
    rng = np.random.default_rng((seed, epoch))
    image = rng.permutation(n)
    side = rng.integers(*data.resize_range, n, endpoint=True)
    fy, fx = rng.random((2, n))
    flip = rng.random(n) < 0.5
    lighting = rng.normal(0, LIGHTING, (n, 3)).astype(np.float32)
    return Plan(image, side, fy, fx, flip & data.flip, lighting * np.float32(data.pca_lighting))


class ImageRequest(NamedTuple):
    """An image, and what is to be seen of it."""

    part: Part
    image: int
    view: View


class Pending:
    """A batch that is being read."""

    def __init__(self, loader: Loader, left: int) -> None:
        self._loader, self._left = loader, left
        self._lock, self._done = threading.Lock(), threading.Event()
        self._unreadable: list[int] = []
        self.images: list[Pixels] = [np.zeros((0, 0, 3), np.uint8)] * left
        """Images requested in their own size."""
        self._error: BaseException | None = None
        if not left:
            self._done.set()

    def wait(self) -> NDArray[np.int64]:
        """Wait until the whole batch is written; the places of images that could not be read, mostly none.

        Raises UserError if an image does not come in time, or too many can't be read.
        """
        overdue: set[tuple[float, ImageRequest]] = set()
        while not self._done.wait(min(_LOOK_S, self._loader.timeout)):
            # Seen twice: where the process itself was stopped for a while, its threads get time to continue.
            again = overdue & (overdue := self._loader.overdue())
            if again:
                raise self._loader.stuck(min(again)[1])
            self._loader.waiting()
        if self._error is not None:
            raise self._error
        return np.array(sorted(self._unreadable), dtype=np.int64)

    def came(self, place: int, error: BaseException | None) -> None:
        """Note, in a thread, that an image has come, or why it has not."""
        with self._lock:
            if isinstance(error, UnreadableImageError):
                self._unreadable.append(place)
            elif error is not None:
                self._error = self._error or error
            self._left -= 1
            if not self._left:
                self._done.set()


class _Job(NamedTuple):
    want: ImageRequest
    out: Pixels | None
    """Where the crop goes; None: the image is wanted as it is."""
    pending: Pending
    place: int


class Loader:
    """Threads that fill batches. To be closed, or used in a ``with``."""

    def __init__(
        self, dataset: ImageNet, workers: int, timeout: float, colour: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        """`threads` decode images. An image that takes longer than `timeout` seconds is reported; one that can't be
        read becomes `colour`, in [0, 1]."""
        self.dataset, self.timeout = dataset, timeout
        self.waiting: Callable[[], None] = lambda: None
        """Called about once a second by whoever waits for a batch; what it raises ends the wait."""
        self._colour = np.round(np.asarray(colour) * 255).astype(np.uint8)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy: dict[int, tuple[float, ImageRequest]] = {}
        # Daemons: a read that never returns must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=f"images-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def load(self, wants: Sequence[ImageRequest], out: Pixels) -> Pending:
        """Begin to fill `out`, (n, crop, crop, 3), with one crop for each of the n wants."""
        assert out.dtype == np.uint8
        assert out.shape == (len(wants), out.shape[1], out.shape[1], 3)
        pending = Pending(self, len(wants))
        for place, want in enumerate(wants):
            self._jobs.put(_Job(want, out[place], pending, place))
        return pending

    def load_whole(self, wants: Sequence[ImageRequest]) -> Pending:
        """Begin to read the images themselves, whatever their sizes: see `Pending.images`."""
        pending = Pending(self, len(wants))
        for place, want in enumerate(wants):
            self._jobs.put(_Job(want, None, pending, place))
        return pending

    def close(self) -> None:
        """Forget what is queued, and let the threads end."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        latest = time.monotonic() + _PART_S
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))

    def overdue(self) -> set[tuple[float, ImageRequest]]:
        """What has been read for too long, each with the time at which it was begun."""
        latest = time.monotonic() - self.timeout
        return {(since, want) for since, want in list(self._busy.values()) if since < latest}

    def stuck(self, want: ImageRequest) -> UserError:
        """What to say of an image that does not come."""
        return UserError(
            f"{self.dataset.file(want.part, want.image)}: did not come within {self.timeout:g} s (data.timeout); see "
            f"whether the disk or the network's file system hangs"
        )

    def _work(self) -> None:
        me = threading.get_ident()
        while (job := self._jobs.get()) is not None:
            self._busy[me] = (time.monotonic(), job.want)
            error: BaseException | None = None
            try:
                self._do(job)
            except BaseException as raised:  # it is raised where the batch is waited for
                error = raised
            del self._busy[me]
            job.pending.came(job.place, error)

    def _do(self, job: _Job) -> None:
        want, out = job.want, job.out
        try:
            image = self.dataset.pixels(want.part, want.image, None if out is None else want.view.side)
        except UnreadableImageError:
            if out is None:
                job.pending.images[job.place] = np.broadcast_to(self._colour, (*self.dataset.size, 3))
            else:
                out[:] = self._colour
            self._note(want)
            raise
        if out is None:
            job.pending.images[job.place] = image
        else:
            out[:] = crop_resize(image, want.view.box(image.shape, len(out)), len(out), want.view.flip)

    def _note(self, want: ImageRequest) -> None:
        """Count an unreadable image. Raises UserError if there are too many."""
        dataset, part = self.dataset, want.part
        with self._lock:
            dataset.unreadable.add(dataset.shown(part, want.image))
            names = sorted(name for name in dataset.unreadable if name.startswith(f"{part}/"))
        share = dataset.config.max_unreadable
        if len(names) > share * dataset.images(part):
            raise UserError(
                f"{dataset.tree.root}: {len(names):,} of {dataset.images(part):,} {part} images can't be read, over "
                f"{share:.3%} (data.max_unreadable): {few(names)}; `resexp data check` names them all"
            )
