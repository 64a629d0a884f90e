"""`resexp data`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resexp.cli.console import err, print_line
from resexp.cli.options import PATH, Config, Plugins, Settings, StudyName, one_study
from resexp.errors import UserError
from resexp.utils.interrupts import EXIT_FAILED
from resexp.utils.machine import cores
from resexp.utils.paths import expanded
from resexp.utils.text import counted

if TYPE_CHECKING:
    from resexp.config import DataConfig
    from resexp.data.official import OfficialFile

app = typer.Typer(help="Fetch, check and prepare image sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SET", help="cifar10, cifar100 or svhn.")]


@app.command(epilog="Example: resexp data fetch cifar100")
def fetch(name: Name = "cifar10") -> None:
    """Download CIFAR-10 (170 MB), CIFAR-100 (169 MB) or SVHN (246 MB), resumable and checked by md5.

    They go to the data folder, which `resexp data info` names.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn

    from resexp.data import data_home
    from resexp.data.fetch import fetch as fetch_file

    files = _files(name)
    with Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=err
    ) as bar:
        for file in files:
            task = bar.add_task(file.name, total=file.size)

            def show(mirror: str, done: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, description=mirror.split("/")[2])

            fetch_file(file, data_home() / file.name, show)
            bar.update(task, completed=file.size)
    for file in files:
        print_line(f"{data_home() / file.name}: intact")


@app.command(epilog="Example: resexp data verify svhn")
def verify(name: Name = "cifar10") -> None:
    """Check the md5 of the files of an image set."""
    from resexp.data import data_home

    for file in _files(name):
        file.verify(path := data_home() / file.name)
        print_line(f"{path}: intact, md5 {file.md5}")


@app.command(epilog="Example: RESEXP_DATA=/scratch/data resexp data info")
def info() -> None:
    """Show the data folder, and how to place files there by hand."""
    from resexp.data import data_home
    from resexp.data.official import FILES

    print_line(f"data folder   {data_home()}  (set RESEXP_DATA to move it)")
    for file in FILES:
        path = data_home() / file.name
        print_line(f"\n{file.title}: {path}: {'here' if path.exists() else 'not here'}")
        print_line(f"by hand       place {file.name} there; md5 {file.md5}")
        for mirror in file.mirrors:
            print_line(f"mirror        {mirror}")


@app.command(epilog="Example: resexp data example images && resexp sweep imagenet/smoke --set data.path=images")
def example(
    folder: Annotated[Path, typer.Argument(help="Folder to create.", **PATH)],
    classes: Annotated[int, typer.Option(min=2, max=10, help="Classes.")] = 10,
    images: Annotated[int, typer.Option(min=1, help="Training images per class.")] = 100,
    val: Annotated[int, typer.Option(min=1, help="Validation images per class.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another one makes other images.")] = 0,
) -> None:
    """Write a small image set in ImageNet's layout: synthetic shapes as JPEG files of many sizes."""
    from resexp.data.imagenet.example import make_example

    make_example(folder, classes, images, val, seed)
    print_line(f"{folder}: {classes * images:,} training and {classes * val:,} validation images")


@app.command(epilog="Example: resexp data prepare imagenet/figure4 --set data.cache.side=480")
def prepare(study: StudyName = None, config: Config = None, settings: Settings = None, plugins: Plugins = None) -> None:
    """Write the cache of resized ImageNet images that a study's data.cache describes."""
    from resexp.config import ImageNetData
    from resexp.data.imagenet import open_imagenet
    from resexp.data.imagenet.prepare import prepare as prepare_images

    config, found = _image_sets("prepare", study, config, settings)
    for data in found:
        if not isinstance(data, ImageNetData):
            raise UserError(f"{config}: data.source is {data.source}, and this is for imagenet and imagefolder")
        if data.cache is None:
            raise UserError(f"{config}: data.cache says what to prepare, and it is not there; add it, or --set it")
        dataset = open_imagenet(data.model_copy(update={"cache": None}))
        with _bar() as progress:
            folder = prepare_images(dataset, data.cache, progress, data.workers or cores())
        print_line(f"{folder}: prepared")


@app.command(epilog="Example: resexp data check imagenet/figure4 --set data.path=/data/imagenet")
def check(study: StudyName = None, config: Config = None, settings: Settings = None, plugins: Plugins = None) -> None:
    """Read every image of a study, and name unreadable, duplicate and left-out images."""
    from resexp.config import FolderData
    from resexp.data import folder, open_dataset
    from resexp.data.imagenet import ImageNet
    from resexp.data.imagenet.prepare import check as check_images

    faults = []
    for data in _image_sets("check", study, config, settings)[1]:
        if isinstance(data, FolderData):
            with _bar() as progress:
                unreadable = folder.check(expanded(data.path), progress)
            if unreadable:
                faults += unreadable
                continue
        dataset = open_dataset(data)
        remarks = list(dataset.remarks)
        if isinstance(dataset, ImageNet):
            with _bar() as progress:
                unreadable, duplicates = check_images(dataset, progress, dataset.config.workers or cores())
            faults += unreadable
            remarks += [f"{dataset.config.path}: {line}" for line in duplicates]
            train, test = (dataset.images(part) for part in dataset.files)
        else:
            train, test = len(dataset.train()[1]), len(dataset.test_labels)
        for line in remarks:
            print_line(line)
        where, name = getattr(data, "path", None) or data.source, f"{dataset.name}, {len(dataset.classes):,} classes"
        images = f"{train:,} training and {test:,} {'validation' if isinstance(dataset, ImageNet) else 'test'} images"
        print_line(f"{where}: {name}, {images}, fingerprint {dataset.fingerprint}")
    for line in faults:
        print_line(line)
    print_line(f"{counted(len(faults), 'image')} can't be read")
    if faults:
        raise typer.Exit(EXIT_FAILED)


def _files(name: str) -> list[OfficialFile]:
    """The files of an image set. Raises UserError if its authors publish none that are read."""
    from resexp.config.messages import hint
    from resexp.data.official import FILES

    names = list(dict.fromkeys(file.source for file in FILES))
    if name not in names:
        raise UserError(f"{name}: no image set that can be fetched; allowed: {', '.join(names)}{hint(name, names)}")
    return [file for file in FILES if file.source == name]


def _image_sets(
    verb: str, study: str | None, config: str | None, settings: list[str] | None
) -> tuple[str, list[DataConfig]]:
    """The study that is named, and the image sets of its grid."""
    from resexp.config.study import load

    if (name := one_study(f"data {verb}", study, config)) is None:
        raise UserError(f"data {verb}: name a study, such as imagenet/figure4")
    return name, list(dict.fromkeys(cell.config.data for cell in load(name, settings)[1]))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
