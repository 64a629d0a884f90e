"""Plain English: habits that make a reader read twice do not come back."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HABITS = {
    "passive reports": r"\b(?:is|are|was|were|be|been) (?:said|heard|told)\b",
    "relative clauses read twice": r"\b(?:of which|those that)\b",
    "so many, for a number": r"\b[Ss]o many\b",
    "go on, for continue": r"\b(?:go|goes|went|going|gone) on\b",
    "beside, for compared with or next to": r"\bbeside\b",
    "but for, for except": r"\bbut for\b",
}
BEGINNINGS = r"(?:Of|So(?! far)|Between|Whom) "
"""A sentence begins with its subject."""
WORDS = 20
"""Average number of words in a sentence of a document, at most."""
TEXTS = [
    path
    for pattern in ("*.md", "*/*.md", "*/*/*.md", ".github/*.md", "configs/**/*.yaml", "resexp/report/*.j2")
    for path in sorted(REPOSITORY.glob(pattern))
]
SOURCES = sorted((REPOSITORY / "resexp").rglob("*.py"))


def strings(path: Path) -> Iterator[str]:
    """What a person may read of a module: docstrings, messages and comments."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def habits(text: str) -> list[str]:
    return [text[max(0, m.start() - 40) : m.end() + 40] for h in HABITS.values() for m in re.finditer(h, text)]


def test_no_sentence_has_to_be_read_twice() -> None:
    found = []
    for path in (*SOURCES, *TEXTS):
        text = re.sub(r"<!-- .*? -->", "", path.read_text())  # the names of quotations
        for words in strings(path) if path.suffix == ".py" else [text]:
            wrong = [*habits(words), *([words[:80]] if re.match(BEGINNINGS, words) else [])]
            found += [f"{path.relative_to(REPOSITORY)}: {what}" for what in wrong]
    assert found == []


@pytest.mark.parametrize("name", ["README.md", "configs/README.md", "resexp/README.md", ".github/CONTRIBUTING.md"])
def test_sentences_of_documents_are_short(name: str) -> None:
    text = re.sub(r"```.*?```|<!-- (\S+: .*?) -->.*?<!-- end -->", "", (REPOSITORY / name).read_text(), flags=re.DOTALL)
    prose = [line for line in text.splitlines() if line and line[0] not in "|#!<"]
    sentences = [part.split() for part in re.split(r"[.:;?!](?:\s|$)", " ".join(prose)) if len(part.split()) > 2]
    assert sum(map(len, sentences)) / len(sentences) <= WORDS


def test_a_habit_is_found() -> None:
    assert habits("What is said of it goes on beside it, but for so many.") != []
