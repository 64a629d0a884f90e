"""Fetching CIFAR-10 from real HTTP servers on this machine: resuming, falling back, refusing the wrong file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from resexp.data import cifar
from resexp.data.fetch import fetch
from resexp.errors import UserError

CONTENT = bytes(range(256)) * 4000


class Mirror:
    """A server of one file: `sends` bytes of it, from the byte asked for if it `resumes`."""

    def __init__(self, content: bytes = CONTENT, *, sends: int | None = None, resumes: bool = True, status: int = 200):
        self.ranges: list[str | None] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers["Range"]
                mirror.ranges.append(asked)
                if status != 200:
                    self.send_error(status)
                    return
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if resumes else 0
                self.send_response(206 if resumes else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : start + sends if sends else None])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/{cifar.ARCHIVE}"


@pytest.fixture
def mirror() -> Iterator[type[Mirror]]:
    made: list[Mirror] = []

    class Made(Mirror):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            made.append(self)

    yield Made
    for server in made:
        server.server.shutdown()
        server.server.server_close()


@pytest.fixture(autouse=True)
def _expect_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MD5", hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setattr(cifar, "SIZE", len(CONTENT))


def get(path: Path, *mirrors: Mirror) -> list[str]:
    said: list[str] = []
    fetch(path, lambda *_: None, said.append, [m.url for m in mirrors])
    return said


def test_the_first_mirror_that_delivers_is_enough(tmp_path: Path, mirror: type[Mirror]) -> None:
    gone, good, unused = mirror(status=503), mirror(), mirror()
    said = get(tmp_path / "a", gone, good, unused)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert "Service Unavailable; trying the next mirror" in said[0]
    assert unused.ranges == []


def test_progress_is_reported_in_bytes(tmp_path: Path, mirror: type[Mirror]) -> None:
    heard: list[int] = []
    fetch(tmp_path / "a", lambda _, done, size: heard.append(done / size), lambda _: None, [mirror().url])
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_a_download_that_broke_off_continues_where_it_stopped(tmp_path: Path, mirror: type[Mirror]) -> None:
    with pytest.raises(UserError, match="run the command again to continue"):
        get(tmp_path / "a", mirror(sends=300_000))
    good = mirror()
    get(tmp_path / "a", good)
    assert good.ranges == ["bytes=300000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_mirror_that_can_not_resume_starts_over(tmp_path: Path, mirror: type[Mirror]) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    get(tmp_path / "a", mirror(resumes=False))
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_another_file_is_thrown_away_and_the_next_mirror_asked(tmp_path: Path, mirror: type[Mirror]) -> None:
    said = get(tmp_path / "a", mirror(b"x" * len(CONTENT)), mirror())
    assert "wrong md5" in said[0]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert not (tmp_path / "a.part").exists()


def test_a_page_of_html_does_not_cost_what_was_fetched_before(tmp_path: Path, mirror: type[Mirror]) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT[:900_000])
    page, good = mirror(b"<html>no such file</html>", resumes=False), mirror()
    said = get(tmp_path / "a", page, good)
    assert "offers 25 bytes where 1,024,000 are missing" in said[0]
    assert good.ranges == ["bytes=900000-"]


def test_a_file_placed_by_hand_is_checked_and_not_fetched(tmp_path: Path, mirror: type[Mirror]) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    unused = mirror()
    get(tmp_path / "a", unused)
    assert unused.ranges == []
    (tmp_path / "a").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"damaged or truncated, 5 of 1,024,000 bytes"):
        get(tmp_path / "a", unused)


def test_the_shipped_mirrors_are_all_https_and_the_home_server_is_last() -> None:
    assert all(url.startswith("https://") and url.endswith(cifar.ARCHIVE) for url in cifar.MIRRORS)
    assert "cs.toronto.edu" in cifar.MIRRORS[-1]
