"""What is done to a file: to its bytes, or to what it says."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

NASTY: list[Any] = [
    None, True, -1, 0, 1e-320, 1e308, 10**18, 2**63, -(2**63), 10**400, float("nan"), float("inf"), "", "x" * 3000,
    "\ud800", "\x00", "\x1b[2J", "a\nb", "<script>alert(1)</script>", "$\\frac{", "../../etc", "/etc/passwd", "1e5",
    "é", [], {}, [[]], [None], {"": 0}, [0] * 300, "plain-8-00000000/seed0", "finished", "²", "1_0", "~",
]  # fmt: skip
WORDS = [
    b"*", b"&a ", b"<<: ", b"!!binary ", b"!!set ", b"!!omap ", b"!!python/object:os.system ", b"[" * 50, b"{" * 3000,
    b"[" * 9000, b"- " * 2000, b"? ", b"---\n", b"%YAML 9.9\n", b"%TAG ! tag:x:\n", b"|+\n", b"\t", b"\r", b"\x85",
    b"#", b"9" * 5000, b"0x" + b"f" * 9000, b"1:59" + b":59" * 3000, b"1e999", b"NaN", b"-Infinity", b"null", b"true",
    b'"', b"'", b'"\\UFFFFFFFF"', b'"\\x00"', b"\\ud800", b"\xff\xfe", b"\x00", b"extends: ", b"grid: ",
    b"seeds: [" + b"1," * 3000 + b"]", b"a." * 5000, b"2020-13-45", b".inf", b"~", b"\n", b": ", b", ", b"}", b"]",
]  # fmt: skip


def of_bytes(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """A few random cuts, copies, flips and insertions."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randint(0, len(data))
        to = min(len(data), at + rng.choice((1, 2, 4, 16, 64, 512)))
        rng.choice(
            (
                lambda at=at: data.__setitem__(slice(at, at + 1), bytes([rng.randrange(256)])),
                lambda at=at: data.__setitem__(
                    slice(at, at + 1), bytes([(data[at : at + 1] or b"a")[0] ^ 1 << rng.randrange(8)])
                ),
                lambda at=at, to=to: data.__delitem__(slice(at, to)),
                lambda at=at, to=to: data.__setitem__(slice(at, at), data[at:to] * rng.choice((1, 1, 3, 50))),
                lambda at=at: data.__setitem__(slice(at, at), rng.choice(WORDS)),
                lambda at=at, to=to: data.__setitem__(slice(at, to), rng.choice(WORDS)),
                lambda at=at, to=to: data.__setitem__(
                    slice(at, to), rng.choice((b"\xff", b"\x00", b"\x7f")) * (to - at)
                ),
                lambda at=at: data.__delitem__(slice(at, None)),
                lambda at=at: data.__setitem__(slice(at, None), _end_of(rng, others)),
            )
        )()
    return bytes(data)


def _end_of(rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    return other[rng.randint(0, len(other)) :]


def of_value(rng: random.Random, value: Any) -> Any:
    """`value` with some of what it holds replaced, removed, doubled or nested."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder, key = rng.choice(list(_places(root)))
        deed = rng.randrange(6)
        if deed == 0 and holder is not root:
            del holder[key]
        elif deed == 1 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "$", "a\nb", "\x1b", "x" * 500, "step", "event", "model.depth"))] = holder[key]
        elif deed == 2 and isinstance(holder, list) and holder is not root:
            holder.extend(copy.deepcopy(holder)[:50])
        elif deed == 3:
            for _ in range(rng.choice((1, 5, 40, 150))):
                holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(rng.choice(NASTY))
    return root[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def of_json(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """A JSON file, or one of JSON lines, changed in what it says."""
    if rng.random() < 0.3:
        return of_bytes(rng, content, others)
    lines = [json.loads(line) for line in content.splitlines()] if content.count(b"\n{") else [json.loads(content)]
    number = rng.randrange(len(lines))
    lines[number] = of_value(rng, lines[number])
    return b"".join(_dumped(json.dumps, line) + b"\n" for line in lines)


def of_yaml(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """A YAML file, changed in what it says."""
    if rng.random() < 0.5:
        return of_bytes(rng, content, others)
    return _dumped(yaml.safe_dump, of_value(rng, yaml.safe_load(content)))


def _dumped(dump: Callable[[Any], str], value: Any) -> bytes:
    try:
        return dump(value).encode(errors="surrogatepass")
    except (RecursionError, yaml.YAMLError):
        return b"[" * 100_000
