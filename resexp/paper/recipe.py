"""The paper's recipes for CIFAR-10 and ImageNet: where a run departs from them, and what it does where they leave a
choice.

The recipes are in recipe.toml. The choices are in readings.toml, with conditions and sentences to fill in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from resexp.config import ImageNetData, PowerOfDepth, RunConfig, Section
from resexp.config.plugins import PluginRef


@dataclass(frozen=True)
class Departure:
    """One difference between a run and the paper."""

    what: str
    key: str
    """The key of the study file that sets it."""
    paper: str
    ours: str
    source: str
    """Where in the paper it stands."""

    def __str__(self) -> str:
        return f"{self.what} {self.ours} instead of {self.paper}"


IDENTITIES = frozenset({
    "model.kind", "model.variant", "model.block", "model.depth", "data.source", "data.classes", "data.labels",
    "data.seed",
})  # fmt: skip
"""Fields that say which net, which chooses the paper's numbers, and which images, which the data set's name says."""

_TABLES = tomllib.loads(Path(__file__).with_name("recipe.toml").read_text())
_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined)
_JINJA.filters["thousands"] = "{:,}".format


@dataclass(frozen=True)
class PaperRecipe:
    """How the paper trains a net of one data set.

    Every field of a run that changes what is measured is held against it. The paper's value of a field is its default,
    unless it is in `values`. So a field that is added to the schema is a departure wherever it is not at its default.
    """

    dataset: str
    batch: int
    gpu_batch: int
    """Images on each GPU."""
    values: dict[str, Any]
    open: dict[str, str]
    sources: dict[str, str]
    """By key, as recipe.toml explains them."""


def recipe(config: RunConfig) -> PaperRecipe:
    """The recipe that a run is held against: its net decides, not its images."""
    dataset = "imagenet" if config.model.variant == "imagenet" else "cifar10"
    table = _TABLES[dataset]
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in table["values"].items()}
    values = fixed | _of_the_run(config)
    return PaperRecipe(
        dataset, table["batch"], table["gpu_batch"], values, _TABLES["open"] | table["open"], table["sources"]
    )


def _of_the_run(config: RunConfig) -> dict[str, Any]:
    """The paper's values, by key, that depend on the run's other fields.

    ResNet-110 and all nets of arXiv 1603.05027 have a warm-up at a rate of 0.01. ResNet-110 "still reaches similar
    accuracy" without it. That is a departure even so: the paper's number is of runs with the warm-up, and the paper
    gives none without.
    """
    model, train = config.model, config.train
    values: dict[str, Any] = {}
    if not train.warmup_lr:  # without a warm-up its end has no effect
        values["train.warmup_until_error"] = train.warmup_until_error
    if model.variant == "imagenet":
        if model.depth == 34:  # this net has numbers with each option (Table 3)
            values["model.shortcut"] = model.shortcut
        return values
    if not isinstance(config.data, ImageNetData) and config.data.resize:
        values["data.resize"] = 32  # what CIFAR-10's images have
    warmed_up = of_identity_mappings(config) or (model.kind, model.depth) == ("residual", 110)
    if warmed_up or (maybe_warmed_up(config) and train.warmup_lr):
        values["train.warmup_lr"] = 0.01
    return values


def maybe_warmed_up(config: RunConfig) -> bool:
    """Whether the paper leaves open if the net had the warm-up of ResNet-110: plain-110 and ResNet-1202."""
    model = config.model
    return (model.variant, model.kind, model.block, model.depth) in (
        ("cifar", "plain", "basic", 110),
        ("cifar", "residual", "basic", 1202),
    )


def of_identity_mappings(config: RunConfig) -> bool:
    """Whether the net is one of arXiv 1603.05027: pre-activated, or with bottlenecks on CIFAR-10."""
    model = config.model
    bottlenecks = (model.variant, model.kind, model.block) == ("cifar", "residual", "bottleneck")
    return model.kind == "preact" or bottlenecks


def sharing(config: RunConfig, world: int) -> int:
    """How many images share BN's statistics in training, on `world` processes."""
    train = config.train
    here = train.batch_size // world
    return min(train.microbatch or here, here) * (world if train.sync_bn else 1)


def departures(config: RunConfig, dataset: str, world: int = 1) -> list[Departure]:
    """Where a run departs from the paper's data, net and recipe. Without any, it may be compared with the paper.

    `dataset` names the images, whatever they were read from. `world` processes trained the run together.
    """
    paper = recipe(config)
    found = []
    if dataset != paper.dataset:
        found.append(Departure("images", "data.source", paper.dataset, dataset, paper.sources["data"]))
    if config.model.kind == "vgg":
        source = "section 4.1, Table 3"
        found.append(Departure("recipe", "model.kind", "its authors'", "the residual nets'", source))
    shared = sharing(config, world)
    if config.model.norm == "batch" and shared < min(paper.gpu_batch, config.train.batch_size):
        what, theirs = "images that share BN's statistics", f"{paper.batch}, or {paper.gpu_batch} on each GPU"
        key = "train.microbatch" if config.train.microbatch else "train.sync_bn"
        ours = f"{shared} of {config.train.batch_size}"
        found.append(Departure(what, key, theirs, ours, paper.sources["train"]))
    for part in ("data", "model", "train"):
        section: Section = getattr(config, part)
        for name, shown in section.measured().items():
            key = f"{part}.{name}"
            own = getattr(section, name)
            if (key in IDENTITIES and not (part == "model" and isinstance(own, PluginRef))) or key in paper.open:
                continue
            value = paper.values[key] if key in paper.values else section.default_of(name)
            if own != value:
                source = paper.sources.get(key, paper.sources[part])
                ours = f"{own}" if isinstance(own, PluginRef | PowerOfDepth) else _shown(shown)
                found.append(
                    Departure(_TABLES["names"].get(key, name.replace("_", " ")), key, _shown(value), ours, source)
                )
    return found


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value}"


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
        "late_steps": _late_steps(config),
        "maybe_warmed_up": maybe_warmed_up(config),
        "of_identity_mappings": of_identity_mappings(config),
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
