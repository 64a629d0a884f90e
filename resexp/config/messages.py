"""What is wrong with a document, in one line for every mistake that pydantic finds."""

from __future__ import annotations

import difflib
import functools
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from resexp.config import SECTIONS, SOURCES, keys_called
from resexp.config.train import IN_STEPS, is_epochs
from resexp.config.yaml_file import Document, KeyPath, dotted
from resexp.errors import UserError

MAX_MISTAKES = 100
"""Mistakes reported at once."""

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


def validated(model: type[ModelT], document: Document) -> ModelT:
    """`document` as a `model`. `--set KEY=null` gives a key its default. Raises UserError with one line, and its place,
    for every mistake."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        empty = [_path(mistake) for mistake in mistakes if _is_empty(mistake)]
        if unset := [path for path in empty if document.place(path).startswith("--set ")]:
            return validated(model, functools.reduce(_without, unset, document))
        own = [mistake for mistake in mistakes if not _repeats(mistake)] or mistakes
        lines = [_line(mistake, model, document) for mistake in own[:MAX_MISTAKES]]
        more = [f"over {MAX_MISTAKES} mistakes; fix these first"] if len(own) > MAX_MISTAKES else []
        raise UserError(*lines, *more) from None


def _path(error: ErrorDetails) -> KeyPath:
    """Where the mistake is in the document; pydantic also names the source of the data."""
    loc: KeyPath = tuple(part for part in error["loc"] if part != "built-in")
    return (loc[0], *loc[2:]) if len(loc) > 1 and loc[0] == "data" else loc


def _is_empty(error: ErrorDetails) -> bool:
    return error["type"].endswith("_type") and error["input"] is None


def _without(document: Document, path: KeyPath) -> Document:
    """The document without the key at this path."""

    def dropped(data: dict[Any, Any], keys: KeyPath) -> dict[Any, Any]:
        if keys[1:]:
            return {**data, keys[0]: dropped(data[keys[0]], keys[1:])}
        return {key: value for key, value in data.items() if key != keys[0]}

    return Document(dropped(document.data, path), document.places)


def _repeats(error: ErrorDetails) -> bool:
    """Whether a mistake only follows from another: a default that could not be computed, a list too short for want of
    valid items, or epochs of unknown length."""
    return error["type"] in ("default_factory_not_called", "too_short") or (
        error["loc"][:2] in [("train", key) for key in IN_STEPS] and is_epochs(error["input"])
    )


def _line(error: ErrorDetails, model: type[BaseModel], document: Document) -> str:
    """One mistake as ``file:line: key: what was got, what is allowed``."""
    path = _path(error)
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        path, got, kind = (*path, "source"), got.get("source"), "literal_error"
        context = {"expected": ", ".join(SOURCES)}
    if kind == "extra_forbidden":
        message = _unknown_key(error["loc"], path, got, model)
    elif kind == "missing":
        message = "missing"
    elif kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        found = "missing" if got is None else f"got {got!r}"
        message = f"{found}; allowed: {', '.join(choices)}{hint(str(got), choices)}"
    elif kind == "value_error":
        message = f"{context['error']}" if isinstance(got, list | dict | tuple) else f"{context['error']}, got {got!r}"
    elif _is_empty(error):
        message = "empty; leave it out, or give it a value"
    elif kind == "too_short":
        message = f"expected at least {context['min_length']} value, got {got!r}"
    else:
        text = _EXPECTED.get(kind, error["msg"][0].lower() + error["msg"][1:]).removeprefix("input ")
        if kind == "string_pattern_mismatch":
            text = f"expected {_PATTERNS.get(str(path[-1]), 'another form')}"
        message = f"{text}, got {got!r}{_remedy(kind, got)}"
    several = isinstance(got, list) or (isinstance(got, str) and "," in got)
    varied = any(place[0] == "grid" and place[-1] == dotted(path) for place in document.places if place)
    if several and not varied and kind in _SINGLE and path[0] in ("data", "model", "train"):
        values = ", ".join(map(str, got)) if isinstance(got, list) else got
        message += f"; for a net of each, put it into the grid: --set 'grid.{dotted(path)}=[{values}]'"
    # Which keys data need depends on their source.
    place = document.place(("data", "source") if kind == "missing" and path[:-1] == ("data",) else path)
    return f"{place}: {dotted(path)}: {message}"


def _unknown_key(loc: KeyPath, path: KeyPath, got: Any, model: type[BaseModel]) -> str:
    """What is wrong with a key that its section does not have; `loc` has the source of data, `path` has not."""
    if name := RENAMED.get(dotted(path)):
        return f"was renamed; write {name}"
    section = SECTIONS[str(loc[-2])] if len(loc) > 1 else model
    allowed, word = list(section.model_fields), str(loc[-1])
    if path == ("train", "epochs"):
        remedy = f"; write steps: {got} epochs"
    elif len(path) == 1 and "." in word:
        sections = f"{word.replace('.', ': {')}: ...{'}' * word.count('.')}"
        remedy = f"; dotted keys are for the grid and --set; write {sections}"
    elif near := hint(word, allowed, 0.8):
        remedy = near
    elif len(path) == 1 and (meant := keys_called(word)):
        remedy = f" (did you mean {' or '.join(meant)}?)"
    else:
        remedy = hint(word, allowed) or ("; a colon needs a space behind it" if ":" in word else "")
    return f"unknown key, got {got!r}; allowed: {', '.join(allowed)}{remedy}"


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
