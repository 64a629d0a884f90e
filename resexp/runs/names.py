"""Names of studies, nets and runs: the path of a folder, or ``STUDY``, ``STUDY:NET``, ``STUDY:NET/SEED``.

``cpu-small:plain-20/0`` is the run of the net plain-20 with seed 0 in the study cpu-small of the results folder. A
study is called by the name of its results folder, or as `sweep` calls it: ``cifar10/cpu-small``.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from resexp.config.messages import hint
from resexp.config.study import is_study, study_name
from resexp.errors import UserError
from resexp.runs.records import RUN_FOLDER
from resexp.runs.store import Run, StudyFolder, is_study_folder, study_folders
from resexp.utils.paths import expanded


@dataclass(frozen=True)
class Selection:
    """What a name stands for."""

    study: StudyFolder
    runs: list[Run]
    """All runs of the study, of the net, or one run."""
    is_study: bool
    """Whether the name refers to a whole study."""


def select_runs(name: str, results: Path) -> Selection:
    """What `name` stands for, in the folder of all studies. A path that exists comes first.

    Raises UserError with the nearest name where nothing is called so.
    """
    path = expanded(name)
    folder = Path(os.path.normpath(path.absolute()))  # "." and ".." have names
    if (folder / "config.yaml").exists():
        if not re.match(RUN_FOLDER, "/".join(folder.parts[-2:])):
            raise UserError(f"{path}: holds a config.yaml, but is no run folder, such as plain-20-0123abcd/seed0")
        named = path if re.match(RUN_FOLDER, "/".join(path.parts[-2:])) else folder  # as the user wrote it
        return Selection(StudyFolder(folder.parents[1]), [Run(named)], is_study=False)
    if path.is_dir() and not any(map(is_study_folder, (path, results / name))):
        inside = [study.folder.name for study in study_folders(path)]
        remedy = f"; it holds the studies {', '.join(inside)}: name one of them" if inside else ""
        raise UserError(f"{path}: neither a run folder (config.yaml) nor a study folder (study.json){remedy}")
    of_study, colon, rest = (name, "", "") if path.exists() or ":" not in name else name.rpartition(":")
    study = StudyFolder(_study_folder(of_study, name, results))
    runs = study.runs()
    if not colon:
        return Selection(study, runs, is_study=True)
    net, _, seed = rest.partition("/")
    of_net = [run for run in runs if run.label == net]
    if not of_net:
        labels = list(dict.fromkeys(run.label for run in runs))
        known = f"it has {', '.join(labels)}{hint(net, labels)}" if labels else "it has no runs yet"
        raise UserError(f"{of_study}:{net}: no net {net!r} in this study; {known}")
    chosen = [run for run in of_net if seed in ("", f"{run.seed}")]
    if not chosen:
        seeds = ", ".join(f"{run.seed}" for run in of_net)
        raise UserError(f"{name}: no seed {seed!r} of this net; it has {seeds}")
    return Selection(study, chosen, is_study=False)


def is_run_name(name: str, results: Path) -> bool:
    """Whether `name` refers to runs or a results folder rather than to a study file."""
    path = expanded(name)
    if path.is_file():
        return False
    inside = len(path.parts) > 1 and not path.suffix and Path(path.parts[0]).is_dir()  # of a folder that is here
    return ":" in name or path.is_dir() or (not is_study(name) and (inside or is_study_folder(results / name)))


def find_run(name: str, results: Path) -> Run:
    """The one run that `name` stands for. Raises UserError if it stands for several."""
    chosen = select_runs(name, results)
    if len(chosen.runs) != 1:
        example = f"{chosen.study.folder.name}:{chosen.runs[0].label}/0" if chosen.runs else "STUDY:NET/SEED"
        raise UserError(f"{name}: {len(chosen.runs):,} runs; name one, such as {example}")
    return chosen.runs[0]


def open_study(name: str | Path | None, results: Path) -> StudyFolder:
    """The study that is called so, or the one that was changed last. Raises UserError if there is none."""
    if name is None:
        if not (studies := study_folders(results)):
            raise UserError(f"{results}: no study here yet; run `resexp sweep` first, or name a study folder")
        return max(studies, key=lambda study: study.plan_path.stat().st_mtime)
    chosen = select_runs(str(name), results)
    if not chosen.is_study:
        raise UserError(f"{name}: not a study folder but a part of {chosen.study.folder}; name that")
    return chosen.study


def _study_folder(of_study: str, name: str, results: Path) -> Path:
    """The folder of a study, by its path, its name in `results` or its file; `name` is what the user wrote."""
    folders = [expanded(of_study), results / of_study] if of_study else []
    problem = "neither a run folder (config.yaml) nor a study folder (study.json), nor a name such as STUDY:NET/SEED"
    if ":" in name:
        problem = f"no study {of_study!r}"
    if is_study(of_study):
        with contextlib.suppress(UserError):  # a file that is no study's
            folders.append(results / study_name(of_study))
            problem = f"a study that was not swept here; `resexp sweep {of_study}` trains it"
    if found := next(filter(is_study_folder, folders), None):
        return found
    known = [study.folder.name for study in study_folders(results)]
    has = f"{results} has the studies {', '.join(known)}" if known else f"{results} has no study yet"
    raise UserError(f"{name}: {problem}; {has}{hint(of_study, known)}")
