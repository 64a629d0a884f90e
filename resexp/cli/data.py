"""``resexp data``."""

from __future__ import annotations

import typer

from resexp.cli.options import err, out

app = typer.Typer(help="The official CIFAR-10 archive.", no_args_is_help=True)


@app.command(epilog="Example: resexp data fetch")
def fetch() -> None:
    """Download CIFAR-10 (170 MB) from the first mirror that delivers; resumable, checked by md5."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from resexp.data import cifar, data_home
    from resexp.data.fetch import fetch as fetch_archive

    path = data_home() / cifar.ARCHIVE
    with Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=err
    ) as bar:
        task = bar.add_task(cifar.ARCHIVE, total=cifar.SIZE)
        fetch_archive(
            path,
            progress=lambda mirror, done, size: bar.update(
                task, completed=done, total=size, description=mirror.split("/")[2]
            ),
            say=lambda line: bar.console.print(line, soft_wrap=True),
        )
        bar.update(task, completed=cifar.SIZE)
    out.print(f"{path}: whole", soft_wrap=True)


@app.command(epilog="Example: resexp data verify")
def verify() -> None:
    """Check the md5 of the CIFAR-10 archive."""
    from resexp.data import cifar, data_home

    path = data_home() / cifar.ARCHIVE
    cifar.verify(path)
    out.print(f"{path}: whole, md5 {cifar.MD5}", soft_wrap=True)


@app.command(epilog="Example: RESEXP_DATA=/scratch/data resexp data info")
def info() -> None:
    """Show where data lie, and how to place the archive by hand."""
    from resexp.data import cifar, data_home

    path = data_home() / cifar.ARCHIVE
    out.print(f"data folder   {data_home()}  (set RESEXP_DATA to move it)", soft_wrap=True)
    out.print(f"archive       {path}: {'here' if path.exists() else 'not here'}", soft_wrap=True)
    out.print(f"by hand       place {cifar.ARCHIVE} there; md5 {cifar.MD5}", soft_wrap=True)
    for mirror in cifar.MIRRORS:
        out.print(f"mirror        {mirror}", soft_wrap=True)
