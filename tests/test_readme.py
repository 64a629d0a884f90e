"""What the README says is so: its commands parse, its study loads, its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from resexp.cli import app
from resexp.config.study import SHIPPED, load
from resexp.errors import UserError
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("resexp ")])
def test_every_resexp_command_parses_and_its_study_loads(line: str) -> None:
    words = line.split()[1:]
    group: typer.core.TyperGroup = typer.main.get_command(app)  # type: ignore[assignment]
    while words and words[0] in getattr(group, "commands", {}):
        group = group.commands[words.pop(0)]  # type: ignore[assignment]
    context = group.make_context(line, words)
    if name := context.params.get("config"):
        load(name, context.params["settings"])


@pytest.mark.parametrize("target", re.findall(r"\bmake ([a-z-]+)", README))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link])
def test_every_linked_file_exists(link: str) -> None:
    assert (REPOSITORY / link).exists()


def example() -> str:
    return next(block for kind, block in BLOCKS if kind == "yaml")


def test_the_study_by_example_loads() -> None:
    Path("my-study.yaml").write_text(example())
    study, cells = load("my-study.yaml")
    assert study.name == "my-study"
    assert len(cells) == (8 + 2) * 3
    assert {cell.config.train.milestones for cell in cells} == {(3200, 4800)}


def test_the_mistakes_shown_are_those_that_are_said() -> None:
    Path("my-study.yaml").write_text(example().replace("steps:", "stesp:").replace("56]", "57]"))
    with pytest.raises(UserError) as error:
        load("my-study.yaml")
    shown = next(block for _, block in BLOCKS if block.startswith("my-study.yaml:")).splitlines()
    assert len(shown) == len(error.value.args)
    for line, said in zip(shown, error.value.args, strict=True):
        begin, _, end = line.partition("...")
        assert said.startswith(begin)
        assert said.endswith(end)


def test_the_block_shown_is_the_block_that_trains() -> None:
    shown = next(block for kind, block in BLOCKS if kind == "python")
    source = (REPOSITORY / "resexp/models/blocks.py").read_text()
    assert all(line.strip() in source for line in shown.splitlines())


def test_every_shipped_study_is_named() -> None:
    for path in SHIPPED.rglob("*.yaml"):
        assert f"`{path.relative_to(SHIPPED).with_suffix('')}`" in README


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_without_a_committed_result_says_so(path: Path) -> None:
    study, _ = load(str(path))
    published = (REPOSITORY / "results/published" / study.name).is_dir()
    assert ("# No committed result yet.\n" in path.read_text()) != published
