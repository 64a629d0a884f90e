"""From a study file to the list of its runs: overlays, the grid, labels, and every mistake reported at once."""

from __future__ import annotations

import contextlib
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
from typing import Any

from resexp.config import RunConfig, Study, plugins, yaml_file
from resexp.config.messages import MAX_MISTAKES, hint, validated
from resexp.config.nets import NamedNet, net_name, pixels
from resexp.config.params import classes_of
from resexp.config.yaml_file import Document
from resexp.errors import UserError
from resexp.utils.paths import expanded
from resexp.utils.untrusted import read_file, refuse_links

_HERE = Path(__file__).parents[1]
SHIPPED = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"
"""The shipped studies: inside the package in a wheel, next to it in a checkout."""

RUN_SECTIONS = ("data", "model", "train", "probes")
"""The sections that a study shares with its runs."""

_CHANGES_RESULTS = r"(?!data\.(path|cache))(data|model|train|grid)[.=\s]"
"""The beginning of a setting that makes another study than the one that its description tells of."""
MAX_RUNS = 100_000
"""Runs per study; the grid of a small file could ask for more than a machine can list."""
MAX_LABEL = 120
"""Characters of a label, which becomes part of the names of figures."""


@dataclass(frozen=True)
class RunSpec:
    """The configuration of one run, and the label of its net."""

    label: str
    config: RunConfig


def find_study(name: str) -> Path:
    """The study file `name`: a path, or a shipped study such as ``cifar10/figure6``."""
    path = expanded(name)
    shipped = SHIPPED / (name if name.endswith(".yaml") else f"{name}.yaml")
    if path.is_file() or (path.exists() and not shipped.exists()):
        return path
    if shipped.exists():
        return shipped
    near = hint(f"{path.stem}.yaml", [file.name for file in path.parent.glob("*.y*ml")], 0.8)
    if not path.suffix:
        names = shipped_names()
        same = [f"'{shipped}'" for shipped in names if shipped.rpartition("/")[2] == name]
        near = near or (f" (did you mean {' or '.join(same)}?)" if same else hint(name, names))
        raise UserError(f"{name}: no such file, and no shipped study; those are {', '.join(names)}{near}")
    if near and not os.path.lexists(path):
        raise UserError(f"{path}: no such file{near}")
    return path


def shipped_names() -> list[str]:
    """The shipped studies, such as ``cifar10/figure6``."""
    return sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.rglob("*.yaml"))


def is_study(name: str) -> bool:
    """Whether `name` is a study file or a shipped study."""
    with contextlib.suppress(UserError):
        return find_study(name).is_file()
    return False


def study_name(name: str) -> str:
    """The name of the results folder of a study file. Raises UserError if the file can't be read."""
    path = find_study(name)
    return str(yaml_file.read(path, find_study).data.get("name") or _name_of(path))


def _name_of(path: Path) -> str:
    """The name of a study whose file gives none."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "study"


def load(name: str, settings: list[str] | None = None) -> tuple[Study, list[RunSpec]]:
    """Read a study file, apply the ``--set`` settings, and expand the grid.

    Raises UserError with one line for every mistake in the file, in every cell of its grid.
    """
    path = find_study(name)
    own = yaml_file.read(path, find_study)
    if not own.data:
        raise UserError(f"{path}: empty; a study names at least one key, such as model: {{kind: plain, depth: 20}}")
    document = yaml_file.overridden(own, settings or [])
    document.data.setdefault("name", _name_of(path))
    if isinstance(needed := document.data.get("plugins"), list):
        plugins.check_listed(list(map(str, needed)), document.place(("plugins",)))
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
    errors: dict[str, None] = {}
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
    changes = [text for setting in settings or [] if re.match(_CHANGES_RESULTS, text := setting.strip())]
    if changes and own.data.get("description") == study.description != "":
        study = study.model_copy(update={"description": f"{study.description} Changed: {', '.join(changes)}."})
    runs = [RunSpec(label, config) for label, (_, config) in zip(_labels(cells), cells, strict=True)]
    by_folder: dict[Path, RunSpec] = {}
    for run in runs:
        if (first := by_folder.setdefault(run.config.folder, run)) is run:
            continue
        if first.config == run.config:
            name = f"{run.label} with seed {run.config.seed}"
            raise UserError(f"{path}: grid: {name} stands in the grid twice; remove one")
        raise UserError(
            f"{path}: grid: {first.label} and {run.label} differ in keys that don't count for a run's folder, "
            "so they would share one; make two studies of them"
        )
    return study, runs


def nets_of(name: str, settings: list[str], size: int | None = None) -> list[NamedNet]:
    """The nets of a study's grid, each once, with the images of its data. Raises UserError as `load` does."""
    configs = [run.config for run in load(name, settings)[1]]
    nets = [NamedNet(c.model, size or pixels(c), classes_of(c.data, c.model)) for c in configs]
    return [net.checked() for net in dict.fromkeys(nets)]


def load_run(path: Path) -> RunConfig:
    """Read the config.yaml of a run folder. Raises UserError if it is not the one the folder was made for."""
    config = _read_config(path)
    if config.folder != Path(*Path(os.path.normpath(path.absolute())).parent.parts[-2:]):
        raise UserError(
            f"{path}: describes {config.folder}: it was changed, the folder was copied from there, or resexp before "
            "0.2 wrote it; restore it, or train the run anew"
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
                cell = yaml_file.changed(cell, key.split("."), value, place)
            for seed in study.seeds:
                yield choice, Document({**cell.data, "seed": seed}, cell.places)


_IN_EVERY_NAME = ("model.kind", "model.depth")


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
        name = net_name(config.model, {key: choice[key] for key in differing if key not in _IN_EVERY_NAME})
        label = "".join(c if c.isalnum() or c in "-+._=" else "_" for c in name)
        if len(label) > MAX_LABEL:
            label = f"{label[: MAX_LABEL - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        labels.append(label)
    return labels
