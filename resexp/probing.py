"""What `resexp probe` does: choose the runs to measure, and train the continuations of `identity`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from resexp.config import ExecutorConfig, RunConfig, Study, TrainConfig, yaml_file
from resexp.config.messages import validated
from resexp.config.study import RunSpec, is_study, load, load_run, study_name
from resexp.data import open_dataset
from resexp.display import Display
from resexp.errors import UserError
from resexp.runs.names import is_run_name, select_runs
from resexp.runs.records import json_text
from resexp.runs.store import Run, StudyFolder
from resexp.sweeping import create, sweep
from resexp.training.warm_start import check_donor
from resexp.utils.files import write_alone
from resexp.utils.interrupts import Stop
from resexp.utils.paths import expanded


def targets(names: list[str], *, initial: bool, settings: list[str], results: Path) -> list[tuple[Run, bool]]:
    """The runs that the user named, and whether each is measured before training.

    Nets of a study file are, unless the study was trained in `results`. Raises UserError for anything else.
    """
    found = []
    for name in names:
        if not is_run_name(name, results) and (settings or not _is_trained(name, results)):
            study, cells = load(name, settings)
            found += [(create(study, cell, results), True) for cell in cells]
            continue
        chosen = select_runs(name, results)
        runs = chosen.runs
        if chosen.is_study and not initial:
            runs = [run for run in runs if run.checkpoint_path.exists()]
        if not runs:
            raise UserError(f"{name}: no run has a checkpoint yet; train some, or add --at-init for untrained nets")
        if settings:
            raise UserError(f"{name}: --set goes with a study file; a run has its configuration in config.yaml")
        found += [(run, initial) for run in runs]
    return found


def _is_trained(study: str, results: Path) -> bool:
    """Whether a run of this study has a checkpoint."""
    runs = StudyFolder(results / study_name(study)).runs() if is_study(study) else []
    return any(run.checkpoint_path.exists() for run in runs)


def finished_runs(names: list[str], results: Path) -> list[Run]:
    """The runs that the user named, and of a study only its finished ones. Raises UserError if there are none."""
    found = []
    for chosen in (select_runs(name, results) for name in names):
        found += [run for run in chosen.runs if not chosen.is_study or run.status().state == "finished"]
    if not found:
        raise UserError(f"{', '.join(names)}: no finished run there")
    return found


ARMS = ("continued", "trained_on", "fresh")
"""What is trained for each donor of `train_continuations`."""


def train_continuations(
    donors: list[Run], depth: int, settings: list[str], results: Path, *, jobs: int | None, stop: Stop, display: Display
) -> tuple[Path, dict[str, Any] | None]:
    """Carry out the argument by construction (He et al. 2015, section 1): a study of three runs for each donor.

    The donors are finished runs of one net that differ in seed. The three runs, by the donor's recipe:
    - continued: a deeper net that begins as the donor with identity blocks inserted;
    - trained_on: the donor's own net, trained further for as many steps;
    - fresh: a deeper net that begins at random, and gets the steps of the donor and of the continuation.

    Returns the study's folder, and what came of it; None if the runs did not all finish. Raises UserError if it
    can't be done.
    """
    continuations = [_continuation(donor, depth, settings) for donor in donors]
    recipes = [load_run(donor.config_path) for donor in donors]
    signatures = [recipe.with_train(init_from=None).signature for recipe in recipes]  # wherever a net began
    for donor, signature in zip(donors, signatures, strict=True):
        if signature != signatures[0]:
            raise UserError(f"{donor.folder}: not the net and recipe of {donors[0].folder}; donors differ in seed only")
    if len({recipe.seed for recipe in recipes}) < len(donors):
        raise UserError("two donors have the same seed; name each once")
    model, fresh = recipes[0].model, continuations[0][-1]
    shallow, deep = f"{model.kind}-{model.depth}", f"{model.kind}-{depth}"
    labels = (f"{deep}-built", f"{shallow}-trained-further", f"{deep}-new")
    cells = [list(map(RunSpec, labels, configs)) for configs in continuations]
    study = Study(
        name=f"identity-{donors[0].folder.absolute().parent.name}-to-{fresh.folder.parent.name}",
        description=f"{shallow} trained further, as it is and with identity blocks, and new nets of {depth} layers.",
        seeds=tuple(recipe.seed for recipe in recipes),
        executor=ExecutorConfig(jobs=jobs),
    )
    every = list(chain.from_iterable(cells))
    sweep(study, every, every, results, stop=stop, display=display)
    folder = results / study.name
    runs = [[Run(folder / cell.config.folder, cell.label) for cell in of_donor] for of_donor in cells]
    if any(run.status().state != "finished" for run in chain.from_iterable(runs)):
        return folder, None
    found = []
    for donor, of_donor in zip(donors, runs, strict=True):
        entry = {**of_donor[0].probes("identity")[0], "from": donor.title}
        for arm, run in zip(ARMS, of_donor, strict=True):
            status = run.status()
            errors = {"clean_train_error": status.clean_train_error, "test_error": status.test_error}
            entry[arm] = {"run": str(run.folder.relative_to(folder)), "label": run.label, **errors}
        found.append(entry)
    record = {"kind": model.kind, "depth": depth, "shallow": shallow, "steps": steps_behind(donors[0]), "donors": found}
    path = folder / "probes" / "identity.json"
    path.parent.mkdir(exist_ok=True)
    write_alone(path, json_text(record))
    return folder, record


def _continuation(donor: Run, depth: int, settings: list[str]) -> list[RunConfig]:
    """The runs that follow from a donor, one for each of ARMS."""
    shallow = load_run(donor.config_path)
    if depth <= shallow.model.depth:
        raise UserError(f"{donor.folder}: {depth} layers are not deeper than {shallow.model.depth}; name another depth")
    recipe = shallow.model_dump(mode="json")
    recipe["train"]["init_from"] = str(donor.folder)
    recipe["model"]["params"] = None  # a deeper net has the donor's width
    if shallow.train.milestones == _usual_milestones(shallow.train):
        del recipe["train"]["milestones"]  # they follow from the steps, which --set may change

    def of(layers: int) -> RunConfig:
        document = yaml_file.overridden(yaml_file.Document(recipe), [*settings, f"model.depth={layers}"])
        return validated(RunConfig, document)

    continued, trained_on = of(depth), of(shallow.model.depth)
    images = open_dataset(continued.data).fingerprint
    for config in (continued, trained_on):
        check_donor(donor, config, images)
    train = continued.train
    steps = steps_behind(donor) + train.steps
    milestones = tuple(milestone * steps // train.steps for milestone in train.milestones)
    if train.milestones == _usual_milestones(train):
        milestones = _usual_milestones(train.model_copy(update={"steps": steps}))
    return [continued, trained_on, continued.with_train(init_from=None, steps=steps, milestones=milestones)]


def _usual_milestones(train: TrainConfig) -> tuple[int, ...]:
    return TrainConfig(steps=train.steps, schedule=train.schedule).milestones


def steps_behind(run: Run) -> int:
    """The steps behind a run's net: its own, and those of the runs that it goes back to.

    Raises UserError if it goes back to a file of weights.
    """
    train = load_run(run.config_path).train
    if train.init_weights:
        raise UserError(
            f"{run.folder}: it started from {train.init_weights[0]}, whose steps are unknown; name another run"
        )
    return train.steps + (steps_behind(Run(expanded(train.init_from))) if train.init_from else 0)
