"""Downloading the CIFAR-10 archive: resumable, from the first mirror that delivers, checked by its md5."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from resexp.data import cifar
from resexp.errors import UserError
from resexp.utils.files import locked, with_filename

TIMEOUT_S = 30
_CHUNK = 1 << 18


def fetch(
    path: Path,
    progress: Callable[[str, int, int], None],
    say: Callable[[str], None],
    mirrors: Sequence[str] = cifar.MIRRORS,
) -> None:
    """Download the archive to `path`, continuing a partial download.

    `progress` hears (mirror, bytes done, bytes in all); `say` hears why a mirror was left. Raises UserError if none of
    the mirrors delivers the right file.
    """
    with locked(path.with_name(f".{path.name}.lock"), f"the download of {path}"):
        _fetch(path, progress, say, mirrors)


def _fetch(
    path: Path,
    progress: Callable[[str, int, int], None],
    say: Callable[[str], None],
    mirrors: Sequence[str],
) -> None:
    if path.exists():
        cifar.verify(path)
        return
    part = path.with_name(path.name + ".part")
    for mirror in mirrors:
        try:
            _download(mirror, part, progress)
            cifar.verify(part)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            say(f"{mirror}: {getattr(error, 'reason', error)}; trying the next mirror")
        except UserError:
            part.unlink()
            say(f"{mirror}: delivered another file (wrong md5), thrown away; trying the next mirror")
        else:
            part.rename(path)
            return
    raise UserError(
        f"no mirror delivered {cifar.ARCHIVE}; run the command again to continue where it stopped, or download it "
        f"by hand (md5 {cifar.MD5}) and place it at {path}"
    )


def _download(url: str, part: Path, progress: Callable[[str, int, int], None]) -> None:
    done = part.stat().st_size if part.exists() else 0
    if done >= cifar.SIZE:
        return  # complete: its md5 will tell
    request = urllib.request.Request(url, headers={"User-Agent": "resexp", "Range": f"bytes={done}-"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0  # this server starts over
        if (length := response.headers["Content-Length"]) != str(cifar.SIZE - done):
            raise ConnectionError(f"offers {length} bytes where {cifar.SIZE - done:,} are missing")
        with with_filename(part), part.open("ab" if done else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                if done > cifar.SIZE:
                    raise ConnectionError(f"sent more than {cifar.SIZE:,} bytes")
                progress(url, done, cifar.SIZE)
    if done < cifar.SIZE:
        raise ConnectionError(f"the connection ended after {done:,} of {cifar.SIZE:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next chunk. Network errors become one kind of error, distinct from disk errors."""
    try:
        return response.read(_CHUNK)
    except OSError as error:
        raise ConnectionError(str(error)) from None
