"""resexp as a library. The names in `__all__` and their parameters are stable; all else may change.

Errors of the user's making are `UserError`, with one line per mistake in `args`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from resexp.config import Study
from resexp.config import study as studies
from resexp.config.nets import parse_net
from resexp.config.study import RunSpec
from resexp.display import Display
from resexp.errors import UserError
from resexp.models import build_model as build
from resexp.report import build_report as write_report
from resexp.report.stats import runs_table
from resexp.runs import names
from resexp.runs.store import StudyFolder
from resexp.sweeping import Outcome, create, train_runs
from resexp.sweeping import sweep as carry_out
from resexp.utils.interrupts import Interrupted, Stop

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

__all__ = ["StudyResults", "UserError", "build_model", "build_report", "load_study", "open_study", "sweep", "train"]


@dataclass(frozen=True)
class StudyResults:
    """The folder of a study."""

    folder: Path

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run: net, seed, state, errors (fractions in [0, 1]), `train_seconds`, and its configuration."""
        return runs_table(StudyFolder(self.folder))


def load_study(name: str | Path, settings: str | Sequence[str] = ()) -> tuple[Study, list[RunSpec]]:
    """Read a study file or a shipped study, and expand its grid into runs.

    `settings` are overrides, such as ``"train.lr=0.05"``. Raises UserError with one line per mistake.
    """
    return studies.load(str(name), _listed(settings))


def sweep(
    name: str | Path,
    results: str | Path = "results",
    settings: str | Sequence[str] = (),
    *,
    only: str | Sequence[str] = (),
) -> StudyResults:
    """Train what is missing of a study, as `resexp sweep` does; `only` the nets with these labels.

    In the main thread, Ctrl-C saves and ends the sweep. Raises UserError if the study can't be run here, and
    RuntimeError if runs did not finish.
    """
    study, cells = load_study(name, settings)
    chosen = studies.only_labels(cells, _listed(only)) if only else cells
    with _listening() as stop:
        return _results(carry_out(study, cells, chosen, Path(results), stop=stop, display=Display()), stop)


@contextmanager
def _listening() -> Iterator[Stop]:
    """Ctrl-C while images are decoded raises KeyboardInterrupt, too. Gradients are on, whatever a notebook has set."""
    try:
        with Stop().listening() as stop, torch.inference_mode(False), torch.enable_grad():
            yield stop
    except Interrupted:
        raise KeyboardInterrupt from None


def _results(outcome: Outcome, stop: Stop) -> StudyResults:
    """What was trained. Raises KeyboardInterrupt if it was stopped, RuntimeError if runs did not finish."""
    if stop():
        raise KeyboardInterrupt
    if outcome.problems:
        raise RuntimeError("; ".join(f"{run.title}: {problem}" for run, problem in outcome.problems))
    return StudyResults(outcome.folder.absolute())


def train(
    name: str | Path, results: str | Path = "results", settings: str | Sequence[str] = (), *, seed: int = 0
) -> StudyResults:
    """Train the one net of a study with one seed; see `sweep`."""
    study, cells = load_study(name, [*_listed(settings), f"seeds=[{seed}]"])
    if len(labels := dict.fromkeys(cell.label for cell in cells)) > 1:
        raise UserError(f"{name}: has {len(labels)} nets ({', '.join(labels)}); use sweep, with only=[...]")
    with _listening() as stop:
        run = create(study, cells[0], Path(results))  # next to what the study has already
        outcome = train_runs([run], stop=stop, display=Display())
    return _results(replace(outcome, folder=Path(results) / study.name), stop)


def open_study(folder: str | Path) -> StudyResults:
    """The results of a study. Raises UserError if the folder is none."""
    return StudyResults(names.open_study(Path(folder), Path()).folder.absolute())


def build_report(folder: str | Path, to: str | Path | None = None) -> Path:
    """Write the report of a study folder; returns the path of its page. Raises UserError while no run has finished."""
    study = names.open_study(Path(folder), Path())
    target = Path(to) if to else study.folder / "report"
    write_report(study, target)
    return target / "index.html"


def build_model(name: str, classes: int | None = None, *, seed: int | None = None) -> nn.Module:
    """The net with a name such as ``residual-56-B`` or ``imagenet/plain-34``, with initial weights.

    It maps float images (N, 3, H, W) to logits (N, classes); the default is 10 classes, 1000 on ImageNet. With a
    `seed` its weights are those of a run with this seed, and the state of PyTorch's generators is left as it was.
    """
    net = parse_net(name, [])
    classes = net.classes if classes is None else classes
    if classes < 1:
        raise UserError(f"build_model: classes must be at least 1, got {classes}")
    if seed is not None and not 0 <= seed < 2**63:
        raise UserError(f"build_model: seed must be from 0 to 2^63 - 1, as of a run, got {seed}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return build(net.config, classes)


def _listed(words: str | Sequence[str]) -> list[str]:
    """A word alone is a list of one."""
    return [words] if isinstance(words, str) else list(words)
