"""Downloading an official file: resumable, from the first mirror that delivers, checked by its md5."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from resexp.data.cache import lock_of
from resexp.data.official import OfficialFile
from resexp.errors import UserError
from resexp.utils.files import with_filename
from resexp.utils.logs import log

TIMEOUT_S = 30
_CHUNK = 1 << 18


def fetch(file: OfficialFile, path: Path, progress: Callable[[str, int], None]) -> None:
    """Download `file` to `path`, continuing a partial download.

    `progress` gets (mirror, bytes done). A warning is logged for each mirror that fails. Raises UserError if none
    delivers the right file.
    """
    part = path.with_name(path.name + ".part")
    with lock_of(path, f"the download of {path}"):
        if path.exists():
            file.verify(path)
            return
        if part.exists() and part.stat().st_size >= file.size:
            with contextlib.suppress(UserError):
                file.verify(part)
                part.rename(path)
                return
            part.unlink()
        for mirror in file.mirrors:
            try:  # a proxy without a host is a ValueError
                _download(file, mirror, part, progress)
                file.verify(part)
            except (urllib.error.URLError, http.client.HTTPException, ValueError, TimeoutError, ConnectionError) as why:
                log.warning(f"{mirror}: {getattr(why, 'reason', why)}")
            except UserError:
                part.unlink()
                log.warning(f"{mirror}: delivered another file (wrong md5), thrown away")
            else:
                part.rename(path)
                return
    raise UserError(
        f"no mirror delivered {file.name}; run the command again to continue where it stopped, or download it "
        f"by hand (md5 {file.md5}) and place it at {path}"
    )


def _download(file: OfficialFile, url: str, part: Path, progress: Callable[[str, int], None]) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "resexp", "Range": f"bytes={done}-"})
    # `urlopen` would keep the proxies that it found at its first call.
    with urllib.request.build_opener().open(request, timeout=TIMEOUT_S) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0  # this server starts over
        if (length := response.headers["Content-Length"]) != str(file.size - done):
            raise ConnectionError(f"offers {length} bytes where {file.size - done:,} are missing")
        with with_filename(part), part.open("ab" if done else "wb") as stream:
            while chunk := _read(response):
                stream.write(chunk)
                done += len(chunk)
                if done > file.size:
                    raise ConnectionError(f"sent more than {file.size:,} bytes")
                progress(url, done)
    if done < file.size:
        raise ConnectionError(f"the connection ended after {done:,} of {file.size:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next chunk. Network errors become one kind of error, distinct from disk errors."""
    try:
        return response.read(_CHUNK)
    except OSError as error:
        raise ConnectionError(str(error)) from None
