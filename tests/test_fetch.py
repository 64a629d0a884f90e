"""Fetching official files from real HTTP servers on this machine: resuming, falling back, refusing the wrong file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner

from resexp.cli import app
from resexp.data import official
from resexp.data.fetch import fetch
from resexp.data.official import OfficialFile, md5
from resexp.errors import UserError
from resexp.utils.logs import logged_to

CONTENT = bytes(range(256)) * 4000
FILE = OfficialFile("cifar10", "CIFAR-10", "a", len(CONTENT), md5(CONTENT), ())


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
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/a"


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


def get(path: Path, *mirrors: Mirror) -> list[str]:
    said: list[str] = []
    with logged_to(said.append):
        fetch(replace(FILE, mirrors=tuple(m.url for m in mirrors)), path, lambda *_: None)
    return said


def test_the_first_mirror_that_delivers_is_enough(tmp_path: Path, mirror: type[Mirror]) -> None:
    gone, good, unused = mirror(status=503), mirror(), mirror()
    said = get(tmp_path / "a", gone, good, unused)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert "Service Unavailable" in said[0]
    assert unused.ranges == []


def test_progress_is_reported_in_bytes(tmp_path: Path, mirror: type[Mirror]) -> None:
    done: list[int] = []
    file = replace(FILE, mirrors=(mirror().url,))
    fetch(file, tmp_path / "a", lambda _, count: done.append(count))
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)


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


def test_a_damaged_download_of_the_full_size_is_thrown_away_and_no_mirror_blamed(
    tmp_path: Path, mirror: type[Mirror]
) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * len(CONTENT))
    assert get(tmp_path / "a", mirror()) == []
    assert (tmp_path / "a").read_bytes() == CONTENT


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


@pytest.mark.parametrize("file", official.FILES, ids=lambda file: file.name)
def test_the_shipped_mirrors_are_https_but_svhns_and_the_home_server_is_last(file: OfficialFile) -> None:
    scheme = "http://" if file.source == "svhn" else "https://"
    assert all(url.startswith(scheme) and url.endswith(f"/{file.name}") for url in file.mirrors)
    assert file.mirrors[-1].split("/")[2] in ("www.cs.toronto.edu", "ufldl.stanford.edu")


def test_a_proxy_without_a_host_is_a_mirror_that_fails(tmp_path: Path, mirror: type[Mirror]) -> None:
    """And the next fetch asks for the proxies of its own time."""
    good = mirror()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", "http:/127.0.0.1:8")
        with pytest.raises(UserError, match="no mirror delivered "):
            get(tmp_path / "a", good)
    assert get(tmp_path / "a", good) == []
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_all_files_of_a_set_are_fetched(tmp_path: Path, mirror: type[Mirror], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESEXP_DATA", str(tmp_path / "home"))
    train, test, other = mirror(), mirror(CONTENT[:1000]), mirror()
    files = (
        replace(FILE, source="svhn", name="train.mat", mirrors=(train.url,)),
        replace(FILE, mirrors=(other.url,)),
        OfficialFile("svhn", "SVHN", "test.mat", 1000, md5(CONTENT[:1000]), (test.url,)),
    )
    monkeypatch.setattr(official, "FILES", files)
    done = CliRunner().invoke(app, ["data", "fetch", "svhn"])
    assert (done.exit_code, done.stdout) == (
        0,
        f"{tmp_path}/home/train.mat: intact\n{tmp_path}/home/test.mat: intact\n",
    )
    assert (tmp_path / "home/train.mat").read_bytes() == CONTENT
    assert (tmp_path / "home/test.mat").read_bytes() == CONTENT[:1000]
    assert (len(train.ranges), len(test.ranges), other.ranges) == (1, 1, [])
    again = CliRunner().invoke(app, ["data", "verify", "svhn"])
    assert again.stdout.splitlines() == [f"{tmp_path}/home/{f.name}: intact, md5 {f.md5}" for f in files[::2]]
    assert len(train.ranges) == 1


def test_a_set_that_is_misspelt_gets_a_hint(here: Callable[..., CompletedProcess[str]]) -> None:
    for verb in ("fetch", "verify"):
        done = here("data", verb, "cifar-100")
        assert (done.returncode, done.stdout) == (2, "")
        assert "allowed: cifar10, cifar100, svhn (did you mean 'cifar100'?)" in done.stderr
