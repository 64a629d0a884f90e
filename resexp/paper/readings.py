"""What the paper leaves open, and what a run does there: the conditions and sentences of readings.toml, filled in."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from resexp.config import ImageNetData, RunConfig
from resexp.paper.recipe import maybe_warmed_up, of_identity_mappings, recipe, sharing

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined)
_JINJA.filters["thousands"] = "{:,}".format


@dataclass(frozen=True)
class Reading:
    """One thing that the paper leaves open, or that its framework did otherwise."""

    topic: str
    paper: str
    """What the paper says, and what it does not."""
    source: str
    ours: str
    """What the run does."""


def readings(
    config: RunConfig, precision: str, worlds: Collection[int] = (1,), probes: Collection[str] = (), images: str = ""
) -> list[Reading]:
    """What a run does where the paper leaves a choice, as far as the question arises.

    `precision` is what the run computed in, `images` names those it was trained on, where they are known. `worlds` are
    the numbers of processes that trained it together, one after the other. `probes` names the probes that were taken.
    """
    facts = {
        "data": config.data,
        "model": config.model,
        "train": config.train,
        "precision": precision,
        "probes": probes,
        "on_imagenet": isinstance(config.data, ImageNetData),
        "held_out": not isinstance(config.data, ImageNetData) and config.data.split == "holdout",
        "images": images,
        "plateau": config.train.schedule == "plateau",
        "late_steps": _late_steps(config),
        "maybe_warmed_up": maybe_warmed_up(config),
        "of_identity_mappings": of_identity_mappings(config),
        "with_bn": config.model.norm == "batch",
        "bn_statistics": ", and ".join(dict.fromkeys(_bn_statistics(config, world) for world in sorted(worlds))),
    }
    names = {"recipe": recipe(config).dataset, "kind": config.model.kind}
    return [
        Reading(entry["topic"], entry["paper"], entry["source"], ours.render(facts))
        for entry, when, ours in _entries()
        if all(entry.get(key, name) == name for key, name in names.items()) and when(facts)
    ]


@cache
def _entries() -> list[tuple[dict[str, str], Callable[..., Any], jinja2.Template]]:
    """The entries of readings.toml, each with its condition and its sentence."""
    entries = tomllib.loads(Path(__file__).with_name("readings.toml").read_text())["reading"]
    return [
        (
            entry,
            _JINJA.compile_expression(entry.get("when", "true"), undefined_to_none=False),
            _JINJA.from_string(entry["ours"]),
        )
        for entry in entries
    ]


def _late_steps(config: RunConfig) -> str:
    """The steps that the running training error is the mean over."""
    if config.train.schedule == "plateau":
        return "the steps after the last drop of the rate, or the last quarter without a drop"
    return "the steps after the last drop of the rate" if config.train.milestones else "the last quarter of the steps"


def _bn_statistics(config: RunConfig, world: int) -> str:
    """The images that BN's statistics are over in training on `world` processes."""
    batch, shared = config.train.batch_size, sharing(config, world)
    if shared == batch:
        together = f", which {world} processes share (train.sync_bn)" if world > 1 else ""
        return f"over all {batch} images of a batch{together}"
    if config.train.sync_bn or shared == config.train.microbatch:
        together = f" of {world} processes together" if config.train.sync_bn else ""
        return f"over the {shared} images that go through the net{together} at a time (train.microbatch)"
    apart = f"over the {shared} images of each of {world} processes"
    return f"{apart}; the moving averages are those of the first"
