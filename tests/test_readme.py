"""What the documents say is so: commands parse, studies load, links lead somewhere, code runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from resexp.cli import app
from resexp.config.study import SHIPPED, load
from resexp.errors import UserError
from tests.conftest import REPOSITORY

DOCUMENTS = [
    REPOSITORY / name
    for name in (
        "README.md", "configs/README.md", "results/README.md", "resexp/README.md", "tests/README.md",
        "tests/gpu/README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md",
    )
]  # fmt: skip
TEXTS = {path: path.read_text() for path in DOCUMENTS}
README, STUDIES = (REPOSITORY / name for name in ("README.md", "configs/README.md"))
ALL = "\n".join(TEXTS.values())


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    shell = "".join(block for kind, block in blocks(ALL) if kind == "sh")
    lines = [line.partition(" #")[0].strip() for line in shell.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("resexp ")])
def test_every_resexp_command_parses_and_its_study_loads(line: str) -> None:
    words = line.split()[1:]
    group: typer.core.TyperGroup = typer.main.get_command(app)  # type: ignore[assignment]
    while words and words[0] in getattr(group, "commands", {}):
        group = group.commands[words.pop(0)]  # type: ignore[assignment]
    Path("my-study.yaml").write_text(example(README))
    context = group.make_context(line, words)
    if name := context.params.get("config"):
        load(name, context.params["settings"])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", ALL, re.MULTILINE))))
def test_every_make_target_exists(target: tuple[str, str]) -> None:
    assert re.search(rf"^{''.join(target)}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


GUIDE = REPOSITORY / "configs/plugins/README.md"
"""Followed word by word in test_plugins."""
LINKS = [
    (path, link)
    for path, text in {**TEXTS, GUIDE: GUIDE.read_text()}.items()
    for link in re.findall(r"\]\(([^)]+)\)", text)
]


@pytest.mark.parametrize(("path", "link"), [pair for pair in LINKS if "://" not in pair[1]], ids=str)
def test_every_linked_file_and_heading_exists(path: Path, link: str) -> None:
    file, _, heading = link.partition("#")
    assert (path.parent / file).exists()
    if heading:
        text = (path.parent / file if file else path).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert heading in [re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings]


def test_the_readme_is_read_to_its_end() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1500


def example(path: Path) -> str:
    return next(block for kind, block in blocks(TEXTS[path]) if kind == "yaml")


def test_the_studies_by_example_load() -> None:
    for path, runs, milestones in ((README, 8 * 3, (9766, 14649)), (STUDIES, (8 + 2) * 3, (3200, 4800))):
        Path("my-study.yaml").write_text(example(path))
        study, cells = load("my-study.yaml")
        assert study.name == "my-study"
        assert len(cells) == runs
        assert {cell.config.train.milestones for cell in cells} == {milestones}


def test_sections_by_example_load() -> None:
    for kind, block in blocks(ALL):
        if kind == "yaml" and "name: my-study" not in block:
            Path("part.yaml").write_text(block)
            load("part.yaml")


def test_python_by_example_runs(write_study: Callable[..., Path]) -> None:
    (code,) = (block for kind, block in blocks(TEXTS[README]) if kind == "python" and "import resexp" in block)
    study = write_study(executor={"name": "debug"}).read_text().replace("name: tiny", "name: quickstart")
    Path("quickstart.yaml").write_text(study)
    names: dict[str, Any] = {}
    exec(code.replace('sweep("quickstart"', 'sweep("quickstart.yaml"'), names)
    assert list(names["runs"]["state"]) == ["finished"]
    assert sum(p.numel() for p in names["net"].parameters()) == 853_018 + 16 * 32 + 32 * 64 + 2 * (32 + 64)


def test_the_mistakes_shown_are_those_that_are_said() -> None:
    Path("my-study.yaml").write_text(example(README).replace("steps:", "stesp:").replace("56]", "57]"))
    with pytest.raises(UserError) as error:
        load("my-study.yaml")
    shown = next(block for _, block in blocks(TEXTS[README]) if block.startswith("my-study.yaml:")).splitlines()
    assert len(shown) == len(error.value.args)
    for line, said in zip(shown, error.value.args, strict=True):
        begin, _, end = line.partition("...")
        assert said.startswith(begin)
        assert said.endswith(end)


def test_the_block_shown_is_the_block_that_trains() -> None:
    source = (REPOSITORY / "resexp/models/blocks.py").read_text()
    shown = [block for kind, block in blocks(ALL) if kind == "python" and "self.branch_scale" in block]
    assert len(shown) == 2  # in the README and the package's
    for block in shown:
        assert all(line.partition("  # F(x)")[0].strip() in source for line in block.splitlines())


def test_every_shipped_study_is_named() -> None:
    for path in SHIPPED.rglob("*.yaml"):
        assert f"`{path.relative_to(SHIPPED).with_suffix('')}`" in TEXTS[STUDIES]


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_without_a_committed_result_says_so(path: Path) -> None:
    name = yaml.safe_load(path.read_text())["name"]
    published = (REPOSITORY / "results/published" / name).is_dir()
    assert ("# No committed result yet.\n" in path.read_text()) != published
