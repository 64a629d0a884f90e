"""What a shell completes: names of studies, nets and runs, labels, and keys of --set. Imports no torch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args, get_origin

import typer

from resexp.errors import UserError

Complete = Callable[[typer.Context, str], list[str]]

_before = ""
"""What stands in front of the word that bash completes, up to its last colon or equals sign."""


def join_words() -> None:
    """Undo what bash does before it asks: it ends words at colons and equals signs, which names and settings hold."""
    global _before
    if os.environ.get("_RESEXP_COMPLETE") != "complete_bash":
        return
    words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
    joined, sticks = words[:1], False
    for word in words[1:]:
        ends = bool(word) and not word.strip(":=")
        if word == "=" and joined[-1].startswith("-"):  # the value of an option is a word of its own
            joined.append("")
        elif word and (ends or sticks):
            joined[-1] += word
        else:
            joined.append(word)
        sticks = ends
    at = max(joined[-1].rfind(":"), joined[-1].rfind("=")) + 1
    _before, joined[-1] = joined[-1][:at], joined[-1][at:]
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)


def _completing(candidates: Callable[[typer.Context, str], Iterable[str]]) -> Complete:
    """Wrap `candidates` as a completion: keep what starts with the word; none on an error."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        whole = _before + incomplete
        try:
            return [found.removeprefix(_before) for found in candidates(ctx, whole) if found.startswith(whole)]
        except (UserError, OSError):
            return []

    return complete


def _meant(names: Iterable[str], end: str, word: str) -> list[str]:
    """The names that begin with `word`, and the names that `word` begins with if `end` follows them."""
    return [name for name in names if f"{name}{end}".startswith(word) or word.startswith(f"{name}{end}")]


def _shipped(ctx: typer.Context, word: str) -> list[str]:
    from resexp.config.study import shipped_names

    return shipped_names()


def _studies(ctx: typer.Context, word: str) -> list[str]:
    from resexp.runs.store import study_folders

    return [study.folder.name for study in study_folders(ctx.params["results"])]


def _named(ctx: typer.Context, word: str) -> list[str]:
    """Studies in results; where one is meant its nets, too; where one net is meant its runs, too."""
    from resexp.runs.store import StudyFolder

    studies = _studies(ctx, word)
    meant = _meant(studies, ":", word)
    if len(meant) != 1:
        return studies
    seeds = defaultdict[str, list[str]](list)
    for run in StudyFolder(ctx.params["results"] / meant[0]).runs():
        seeds[f"{meant[0]}:{run.label}"].append(f"{meant[0]}:{run.label}/{run.seed}")
    nets = _meant(seeds, "/", word) if ":" in word else []
    return [*studies, *seeds, *(seeds[nets[0]] if len(nets) == 1 else [])]


def _trainable(ctx: typer.Context, word: str) -> list[str]:
    return [*_shipped(ctx, word), *_named(ctx, word)]


def _labels(ctx: typer.Context, word: str) -> list[str]:
    """The nets of the study that the command line names so far."""
    from resexp.config.study import SHIPPED, load

    named = ctx.params.get("named") or ctx.params.get("config")
    # The option has no value yet, and the parser stops there: what it has not placed is in ctx.args.
    study = named or next(iter(ctx.args), str(SHIPPED / "quickstart.yaml"))
    _, cells = load(study, list(ctx.params.get("settings") or []))
    return list(dict.fromkeys(cell.label for cell in cells))


def _settings(ctx: typer.Context, word: str) -> list[str]:
    """Keys with an equals sign; where one is meant, its allowed values and its default, too."""
    from resexp.config import SOURCES, Section, Study

    def keys(section: type[Section], before: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                found |= keys(field.annotation, f"{before}{name}.")
            else:
                found[f"{before}{name}"] = field
        return found

    fields = keys(Study, "")
    del fields["data"]
    for section in SOURCES.values():
        fields = {**keys(section, "data."), **fields}
    fields["data.source"] = None
    meant = _meant(fields, "=", word)
    if len(meant) != 1:
        return [f"{key}=" for key in fields]
    (key,) = meant
    values = list(SOURCES) if key == "data.source" else _values(fields[key])
    return [f"{key}=", *(f"{key}={value}" for value in values)]


def _values(field: Any) -> list[str]:
    """What a key may be, as far as its type says so in words, and its default."""
    from resexp.config.plugins import BUILT_IN, Choice

    kinds = [field.annotation, *get_args(field.annotation)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    words += [word for part in field.metadata if isinstance(part, Choice) for word in BUILT_IN[part.role]]
    words += ["true", "false"] if bool in kinds else []
    default = field.default if isinstance(field.default, str | int | float) and not words else ""
    return [*map(str, words), *([str(default)] if default != "" else [])]


shipped, studies, named, trainable, labels, settings = map(
    _completing, (_shipped, _studies, _named, _trainable, _labels, _settings)
)
