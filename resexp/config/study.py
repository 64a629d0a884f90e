"""From a study file to the list of its runs: overlays, the grid, labels, and every mistake reported at once."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import itertools
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from resexp.config import SECTIONS, SOURCES, RunConfig, Section, Study, plugins, yaml_file
from resexp.config.model import name_part
from resexp.config.yaml_file import Document, KeyPath
from resexp.errors import UserError
from resexp.utils.paths import expanded
from resexp.utils.untrusted import read_file, refuse_links

_HERE = Path(__file__).parents[1]
SHIPPED = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"
"""The shipped studies: inside the package in a wheel, next to it in a checkout."""

RUN_SECTIONS = ("data", "model", "train", "probes")
"""The sections that a study shares with its runs."""

MAX_RUNS = 100_000
"""Runs per study; the grid of a small file could ask for more than a machine can list."""
MAX_MISTAKES = 100
"""Mistakes reported at once."""
MAX_LABEL = 120
"""Characters of a label, which becomes part of the names of figures."""

RENAMED = {
    "data.clean_images": "data.train_eval_images",
    "data.colour": "data.pca_lighting",
    "data.prepared": "data.cache",
    "data.shorter_side": "data.resize_range",
    "data.unreadable": "data.max_unreadable",
    "data.val_side": "data.val_resize",
    "executor.pack": "executor.runs_per_gpu",
    "executor.silent_seconds": "executor.heartbeat_timeout",
    "executor.slurm.cpus": "executor.slurm.cpus_per_task",
    "executor.slurm.minutes": "executor.slurm.time_limit_minutes",
    "model.branch": "model.residual_init",
    "model.layout": "model.variant",
    "model.stride_in": "model.stride_conv",
    "probes.views": "probes.tta",
    "train.bn_images": "train.precise_bn_images",
    "train.eager": "train.cuda_graphs, with the opposite value",
    "train.plateau_drops": "train.max_lr_drops",
    "train.plateau_evals": "train.patience",
    "train.start": "train.init_from",
    "train.warmup_until": "train.warmup_until_error",
}
"""Current key for each former key. A former key is rejected with a message that names the current one."""

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class RunSpec:
    """The configuration of one run, and the label of its net."""

    label: str
    config: RunConfig


def find_study(name: str) -> Path:
    """The study file `name`: a path, or a shipped study such as ``cifar10/figure6``."""
    path = expanded(name)
    shipped = SHIPPED / (name if name.endswith(".yaml") else f"{name}.yaml")
    if path.is_file() or not shipped.exists():
        near = hint(f"{path.stem}.yaml", [file.name for file in path.parent.glob("*.y*ml")], 0.8)
        if not path.exists() and not path.suffix:
            names = shipped_names()
            raise UserError(
                f"{name}: no such file, and no shipped study; those are {', '.join(names)}{near or hint(name, names)}"
            )
        if near and not os.path.lexists(path):
            raise UserError(f"{path}: no such file{near}")
        return path
    return shipped


def shipped_names() -> list[str]:
    """The shipped studies, such as ``cifar10/figure6``."""
    return sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.rglob("*.yaml"))


def is_study(name: str) -> bool:
    """Whether `name` is a study file or a shipped study."""
    with contextlib.suppress(UserError):
        return find_study(name).is_file()
    return False


def load(name: str, settings: list[str] | None = None) -> tuple[Study, list[RunSpec]]:
    """Read a study file, apply the ``--set`` settings, and expand the grid.

    Raises UserError with one line for every mistake in the file, in every cell of its grid.
    """
    path = find_study(name)
    own = yaml_file.read(path, find_study)
    if not own.data:
        raise UserError(f"{path}: empty; a study names at least one key, such as model: {{kind: plain, depth: 20}}")
    document = yaml_file.overridden(own, settings or [])
    document.data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "study")
    if isinstance(needed := document.data.get("plugins"), list):
        plugins.check_listed(list(map(str, needed)), document.place(("plugins",)))
    errors: dict[str, None] = {}
    try:
        study = validated(Study, document)
    except UserError as error:
        # Without its grid a study may be incomplete; a mistake outside of the grid is one in every cell.
        frame = {key: value for key, value in document.data.items() if key not in RUN_SECTIONS}
        try:
            study = validated(Study, Document(frame, document.places))
        except UserError:
            raise error from None
    if sum(math.prod(map(len, product.values())) for product in study.grid) * len(study.seeds) > MAX_RUNS:
        raise UserError(f"{document.place(('grid',))}: grid: over {MAX_RUNS:,} runs; make several studies of it")
    varied = {key for product in study.grid for key in product}
    for setting in settings or []:
        if (key := setting.partition("=")[0].strip()) in varied:
            remedy = f"choose with --only, or with --set 'grid.{key}=[...]'"
            errors[f"--set {setting}: {key}: the grid of the study sets it; {remedy}"] = None
    cells: list[tuple[dict[str, Any], RunConfig]] = []
    for choice, cell_document in _expand(study, document):
        if len(errors) >= MAX_MISTAKES:
            raise UserError(*list(errors)[:MAX_MISTAKES], f"{path}: over {MAX_MISTAKES} mistakes; fix these first")
        try:
            cells.append((choice, validated(RunConfig, cell_document)))
        except UserError as error:
            errors.update(dict.fromkeys(error.args))
    if errors:
        raise UserError(*errors)
    runs = [RunSpec(label, config) for label, (_, config) in zip(_labels(cells), cells, strict=True)]
    seen: set[Path] = set()
    for run in runs:
        if (folder := run.config.folder) in seen:
            name = f"{run.label} with seed {run.config.seed}"
            raise UserError(f"{path}: grid: {name} stands in the grid twice; remove one")
        seen.add(folder)
    return study, runs


def load_run(path: Path) -> RunConfig:
    """Read the config.yaml of a run folder. Raises UserError if it is not the one the folder was made for."""
    config = _read_config(path)
    if config.folder != Path(*Path(os.path.normpath(path.absolute())).parent.parts[-2:]):
        raise UserError(
            f"{path}: describes {config.folder}: it was changed, or resexp before 0.2 wrote it; restore it, or train "
            "the run anew"
        )
    refuse_links(path.parent)
    return config


_SEEDED = re.compile(r"(.*\n)seed: (0|[1-9][0-9]{0,17})\n", re.DOTALL)


def _read_config(path: Path) -> RunConfig:
    # The seeds of a net differ in the last line, and YAML takes more time than all else that is read of a run.
    with contextlib.suppress(UserError, OSError, UnicodeDecodeError):  # reported below
        if seeded := _SEEDED.fullmatch(read_file(path, yaml_file.MAX_BYTES).decode()):
            return _of_first_seed(seeded[1]).model_copy(update={"seed": int(seeded[2])})
    return validated(RunConfig, yaml_file.read(path))


@functools.lru_cache
def _of_first_seed(text: str) -> RunConfig:
    return validated(RunConfig, yaml_file.parse(f"{text}seed: 0\n", ""))


def only_labels(cells: list[RunSpec], chosen: list[str], option: str = "--only") -> list[RunSpec]:
    """The cells with these labels (all seeds), which the user chose by an option; commas may stand between labels."""
    labels = list(dict.fromkeys(cell.label for cell in cells))
    chosen = [label for several in chosen for label in several.replace(",", " ").split() or [""]]
    known = ", ".join(labels)
    if unknown := [label for label in dict.fromkeys(chosen) if label not in labels]:
        raise UserError(
            *(f"{option} {label}: no such net in this study; it has {known}{hint(label, labels)}" for label in unknown)
        )
    return [cell for cell in cells if cell.label in chosen]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a study file, with `extends`; `name` defaults to the file's."""
    schema = Study.model_json_schema()
    schema["title"] = "resexp study"
    schema["required"] = []
    schema["properties"] = {
        "extends": {"type": "string", "description": "Another study file, relative to this one; this one wins."},
        **schema["properties"],
    }
    return schema


def _expand(study: Study, document: Document) -> Iterator[tuple[dict[str, Any], Document]]:
    """Each cell's choices (dotted key -> value) and its document: the base overlaid with them and the seed."""
    shared = {key: value for key, value in document.data.items() if key in RUN_SECTIONS}
    grid_is_list = isinstance(document.data.get("grid"), list)
    for index, product in enumerate(study.grid):
        for values in itertools.product(*product.values()):
            choice, cell = dict(zip(product, values, strict=True)), Document(shared, document.places)
            for key, value in choice.items():
                place = document.place(("grid", index, key) if grid_is_list else ("grid", key))
                if key.count(".") >= yaml_file.MAX_NESTING:
                    raise UserError(f"{place}: grid: {key}: no key has that many parts")
                cell = yaml_file.merge(cell, yaml_file.nested(key.split("."), value, place))
            for seed in study.seeds:
                yield choice, Document({**cell.data, "seed": seed}, cell.places)


def _labels(cells: list[tuple[dict[str, Any], RunConfig]]) -> list[str]:
    """``plain-20``, and behind it only what is needed to tell apart nets of the same kind and depth."""
    keys = {key for choice, _ in cells for key in choice}
    values: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for choice, config in cells:
        for key in keys:
            values[config.model.kind, config.model.depth, key].add(repr(choice.get(key)))
    labels = []
    for choice, config in cells:
        kind, depth = config.model.kind, config.model.depth
        differing = [key for key in choice if len(values[kind, depth, key]) > 1]
        extras = [name_part(key, choice[key]) for key in differing if key not in ("model.kind", "model.depth")]
        name = "-".join([kind, str(depth), *extras])
        label = "".join(c if c.isalnum() or c in "-+._=" else "_" for c in name)
        if len(label) > MAX_LABEL:
            label = f"{label[: MAX_LABEL - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        labels.append(label)
    return labels


def validated(model: type[ModelT], document: Document) -> ModelT:
    """`document` as a `model`. Raises UserError with one line, and its place, for every mistake."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        # A default that could not be computed, or a list too short for want of valid items, only repeats a mistake.
        own = [m for m in mistakes if m["type"] not in ("default_factory_not_called", "too_short")] or mistakes
        lines = [_line(mistake, model, document) for mistake in own[:MAX_MISTAKES]]
        more = [f"over {MAX_MISTAKES} mistakes; fix these first"] if len(own) > MAX_MISTAKES else []
        raise UserError(*lines, *more) from None


def _line(error: ErrorDetails, model: type[BaseModel], document: Document) -> str:
    """One mistake as ``file:line: key: what was got, what is allowed``."""
    loc: KeyPath = tuple(part for part in error["loc"] if part != "built-in")
    path = (loc[0], *loc[2:]) if len(loc) > 1 and loc[0] == "data" else loc
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        message = _unknown_key(loc, path, got, model)
    elif kind == "missing":
        message = "missing"
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        tag = context.get("tag", "")
        path = (*path, "source")
        message = f"{f'got {tag!r}' if tag else 'missing'}; allowed: {', '.join(SOURCES)}{hint(tag, list(SOURCES))}"
    elif kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        message = f"got {got!r}; allowed: {', '.join(choices)}{hint(str(got), choices)}"
    elif kind == "value_error":
        message = f"{context['error']}" if isinstance(got, list | dict | tuple) else f"{context['error']}, got {got!r}"
    elif kind.endswith("_type") and got is None:
        message = "empty; leave it out, or give it a value"
    elif kind == "too_short":
        message = f"expected at least {context['min_length']} value, got {got!r}"
    else:
        text = _EXPECTED.get(kind, error["msg"][0].lower() + error["msg"][1:]).removeprefix("input ")
        if kind == "string_pattern_mismatch":
            text = f"expected {_PATTERNS.get(str(path[-1]), 'another form')}"
        message = f"{text}, got {got!r}{_remedy(kind, got)}"
    several = isinstance(got, list) or (isinstance(got, str) and "," in got)
    varied = any(place[0] == "grid" and place[-1] == yaml_file.dotted(path) for place in document.places if place)
    if several and not varied and kind in _SINGLE and path[0] in ("data", "model", "train"):
        values = ", ".join(map(str, got)) if isinstance(got, list) else got
        message += f"; for a net of each, put it into the grid: --set 'grid.{yaml_file.dotted(path)}=[{values}]'"
    return f"{document.place(path)}: {yaml_file.dotted(path)}: {message}"


def _unknown_key(loc: KeyPath, path: KeyPath, got: Any, model: type[BaseModel]) -> str:
    """What is wrong with a key that its section does not have; `loc` has the source of data, `path` has not."""
    if name := RENAMED.get(yaml_file.dotted(path)):
        return f"was renamed; write {name}"
    section = SECTIONS.get(str(loc[-2])) if len(loc) > 1 else model
    allowed, word = list((section or Section).model_fields), str(loc[-1])
    near = hint(word, allowed, 0.8)
    if not near and len(loc) == 1:
        homes = {"model": [SECTIONS["model"]], "train": [SECTIONS["train"]], "data": list(SOURCES.values())}
        meant = [f"{name}.{word}" for name, own in homes.items() if any(word in one.model_fields for one in own)]
        near = f" (did you mean {' or '.join(meant)}?)" if meant else ""
    near = near or hint(word, allowed)
    if path == ("train", "epochs"):
        near = f"; write steps: {got} epochs"
    elif len(path) == 1 and "." in word:
        sections = f"{word.replace('.', ': {')}: ...{'}' * word.count('.')}"
        near = f"; dotted keys are for the grid and --set; write {sections}"
    elif ":" in word and not near:
        near = "; a colon needs a space behind it"
    return f"unknown key, got {got!r}; allowed: {', '.join(allowed)}{near}"


_MAPPINGS = ("model_type", "model_attributes_type", "dict_type")
_EXPECTED = {
    **dict.fromkeys(_MAPPINGS, "expected a mapping of keys to values"),
    "tuple_type": "expected a list",
    "bool_type": "expected true or false",
}
"""What was expected, by the type of the mistake; others keep pydantic's message."""
_PATTERNS = {
    "name": "letters, digits, '.', '_' and '-', at most 64, a letter or digit first",
    "device": "auto, cpu, mps, cuda or cuda:N",
}
"""The allowed values of fields that are checked by a pattern."""
_SINGLE = ("int_type", "float_type", "bool_type", "literal_error", "string_type")
"""Types of mistakes where one value was expected."""


def _remedy(kind: str, got: Any) -> str:
    """How a value of the wrong type is written; empty if that is not clear."""
    if kind == "tuple_type" and (type(got) is int or (isinstance(got, str) and "," in got)):
        return f"; write [{got}]"
    if kind in _MAPPINGS and isinstance(got, str) and got.lower() in SOURCES:
        return f"; write {{source: {got.lower()}}}"
    if kind == "string_type" and isinstance(got, bool | int | float):
        return "; in quotes it is text"
    if kind == "int_type" and isinstance(got, str) and "epoch" in got.lower():
        return "; a number of epochs is written as 164 epochs"
    return ""


def hint(word: str, known: list[str], cutoff: float = 0.6) -> str:
    """``" (did you mean 'depth'?)"``, or nothing if no known word is as similar as `cutoff`, which difflib defines."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=cutoff)
    return f" (did you mean '{lower[near[0]]}'?)" if near else ""
