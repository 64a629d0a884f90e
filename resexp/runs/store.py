"""Run folders and study folders: the only interface between training, executors, status and report.

A run folder is the whole truth about a run::

    results/<study>/<kind>-<depth>-<signature>/seed<N>/
        config.yaml      the resolved configuration
        manifest.json    versions, device, commit, data fingerprint, command, and one entry per attempt
        metrics.jsonl    one JSON object a line, only ever appended to; a torn last line is ignored
        checkpoint.pt    the state to continue from, the best weights in it, for torch.load(weights_only=True);
                         checkpoint.prev.pt is the one before
        logits.npz       of the final weights on the test images: float32 logits (N, classes) in the order of the data
                         set, labels (N,), and the fingerprint of the data; see `logits`
        status.json      what the run is doing now
        log.txt          what a worker process printed
        job.json         the cluster's job that was last asked to train it
        probes/          <probe>-<step>.json: what the net was like inside
        .attempt-<N>/    where the attempt at the run makes its files: see `lease`

The folder's name depends on the run alone. What a study calls the net (its label, which says how it differs from the
others of the grid) stands in study.json, so that a grid can grow without moving what is finished.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from resexp.config import RunConfig, yaml_file
from resexp.errors import UserError
from resexp.runs.lease import Lease, holder_elsewhere, leased
from resexp.runs.records import LINE_READER, Manifest, PlannedRun, Status, StudyPlan, Submission
from resexp.utils.files import is_locked, locked, write_atomic, write_held
from resexp.utils.text import counted, few
from resexp.utils.untrusted import MAX_LINES, MAX_METRICS, MAX_RECORD, parse_json, read_file, read_record, refuse_links


class Run:
    """One run folder; the paths in it are attributes."""

    def __init__(self, folder: Path, label: str = "", lease: Lease | None = None) -> None:
        """`label` is what the study calls the net; by default its kind and depth. `lease`: set during an attempt; all
        files are then written through it."""
        self.folder, self.lease = folder, lease
        self.label = label or folder.absolute().parent.name.rpartition("-")[0]
        self.config_path = folder / "config.yaml"
        self.manifest_path = folder / "manifest.json"
        self.metrics_path = folder / "metrics.jsonl"
        self.checkpoint_path = folder / "checkpoint.pt"
        self.previous_checkpoint_path = folder / "checkpoint.prev.pt"
        self.logits_path = folder / "logits.npz"
        self.status_path = folder / "status.json"
        self.log_path = folder / "log.txt"
        self.probe_folder = folder / "probes"
        self.job_path = folder / "job.json"
        self.lock_path = folder / ".lock"  # held by the process that trains the run

    def create(self, config: RunConfig) -> None:
        """Create the folder and config.yaml. For an unfinished run, rewrite config.yaml (its signature is the same:
        only execution settings and probes can differ). Of a run that is running, finished or diverged, write it only
        where it is lost."""
        if self.status().state in ("running", "finished", "diverged") and self.config_path.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        refuse_links(self.folder)
        text = yaml_file.dump(config.model_dump(mode="json"))
        if not self.config_path.exists() or self.config_path.read_text() != text:
            write_atomic(self.config_path, text)

    def clear(self) -> None:
        """Discard the run's results; the next attempt begins at step 0, and deletes them.

        Raises UserError while an attempt is alive.
        """
        if not self.folder.exists():
            return
        with self.leased() as run:
            assert run.lease
            # A process that is killed in between leaves a run to begin or to continue, never one that seems finished.
            first = [self.status_path, self.checkpoint_path, self.previous_checkpoint_path]
            rest = [path for path in sorted(self.folder.iterdir()) if path not in (*first, self.config_path)]
            for path in [*first, *(path for path in rest if not path.name.startswith("."))]:
                if path.exists():
                    path.rename(run.lease.folder / path.name)

    def remove(self) -> None:
        """Delete the run folder, and the net's where it is empty then. Raises UserError while an attempt is alive."""
        with self.leased():
            gone = self.folder.with_name(f".{self.folder.name}.deleted")  # a half of it must not pass for a run
            shutil.rmtree(gone, ignore_errors=True)  # of a process that was killed
            self.folder.rename(gone)
            shutil.rmtree(gone)
        with contextlib.suppress(OSError):  # other seeds are there
            gone.parent.rmdir()

    def publish(self, path: Path, content: str | bytes, *, sync: bool = True) -> None:
        """Replace a file of the run. Raises LeaseLostError if the run's lease to the folder was taken away."""
        (self.lease.write if self.lease else write_atomic)(path, content, sync=sync)

    @property
    def title(self) -> str:
        """What messages and tables call the run: ``plain-20 seed 0``. Commands take ``plain-20/0``."""
        return f"{self.label} {self.folder.name.replace('seed', 'seed ')}"

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.folder.name.removeprefix("seed"))

    def submission(self) -> Submission | None:
        """The last submission to a cluster; None if there was none, or a power failure left nothing of job.json."""
        try:
            return read_record(self.job_path, Submission)
        except UserError:
            return None

    def write_submission(self, submission: Submission) -> None:
        """Replace job.json. Not synced: without it a second job is submitted, and finds the run finished or in use."""
        write_held(self.job_path, submission.model_dump_json(indent=1), sync=False)

    def probe_path(self, name: str, step: int) -> Path:
        """The file of a probe's result at a step."""
        return self.probe_folder / f"{name}-{step}.json"

    def probes(self, name: str) -> dict[int, dict[str, Any]]:
        """The results of a probe, by step."""
        results = {}
        for path in self.probe_folder.glob(f"{name}-*.json"):
            try:
                results[int(path.stem.removeprefix(f"{name}-"))] = dict(parse_json(read_file(path, MAX_RECORD)))
            except (ValueError, TypeError):
                raise UserError(f"{path}: damaged; delete it, and take the probe again") from None
        return dict(sorted(results.items()))

    def is_held(self) -> bool:
        """Whether an attempt at the run is alive, here or on another machine."""
        return is_locked(self.lock_path) or bool(holder_elsewhere(self.folder))

    @contextlib.contextmanager
    def leased(self) -> Iterator[Run]:
        """The run with a lease to its folder. Raises UserError while another attempt is alive."""
        if holder := holder_elsewhere(self.folder):
            raise UserError(f"{self.title} is in use by {holder}; wait for it, or stop it first")
        with locked(self.lock_path, self.title), leased(self.folder, self.title) as lease:
            yield Run(self.folder, self.label, lease)

    def status(self) -> Status:
        """The last status written; a run whose process is gone is `interrupted`, not `running`. Without a readable
        file: `pending`, which trains it from its checkpoint."""
        try:
            status = Status.model_validate_json(read_file(self.status_path, MAX_RECORD))
        except FileNotFoundError:
            status = Status()
        except (ValidationError, UserError):
            status = Status(message="status.json: damaged, or of another version; the next attempt writes it anew")
        if status.state == "running" and not self.is_held():
            status.state = "interrupted"
        return status

    def write_status(self, status: Status) -> None:
        """Publish what the run is doing. Synced only at the end: a lost progress line costs nothing."""
        self.publish(self.status_path, status.model_dump_json(indent=1), sync=status.state != "running")

    def manifest(self) -> Manifest | None:
        """The manifest, or None before the first attempt."""
        return read_record(self.manifest_path, Manifest)

    def check_data(self, fingerprint: str) -> Manifest | None:
        """The manifest. Raises UserError if the run was begun on images with another fingerprint."""
        manifest = self.manifest()
        if manifest and manifest.data.fingerprint != fingerprint:
            raise UserError(
                f"{self.folder}: begun on other data (fingerprint {manifest.data.fingerprint}, now {fingerprint}); "
                f"bring the old data back, or delete the run to begin anew"
            )
        return manifest

    def check_finished(self, purpose: str) -> None:
        """Raises UserError if the run is not finished; `purpose` says what can only be done with one that is."""
        if (state := self.status().state) != "finished":
            remedy = f"finish it with resexp train {self.folder}"
            raise UserError(f"{self.folder}: {state}, and only a finished run {purpose}; {remedy}")

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        self.publish(self.manifest_path, manifest.model_dump_json(indent=1))

    def metrics(self, reader: TypeAdapter[Any] = LINE_READER, last: int | None = None) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, or what `reader` takes of them; a torn last line, as a crash leaves it, is not
        one. Only the `last` bytes are read, if given."""
        try:
            content = read_file(self.metrics_path, MAX_METRICS, last)
        except FileNotFoundError:
            return []
        if content.count(b"\n") > MAX_LINES:
            raise UserError(f"{self.metrics_path}: over {MAX_LINES:,} lines; restore the file or delete the run")
        whole, _, _ = content.rpartition(b"\n")
        if last is not None and len(content) == last:
            _, _, whole = whole.partition(b"\n")  # it may begin within a line
        records = _records(whole, reader) if whole else []
        if records is not None:
            return records
        if last is not None:
            return self.metrics(reader)  # which says where the damage is
        damaged = next(n for n, line in enumerate(whole.split(b"\n"), 1) if _records(line, reader) is None)
        raise UserError(f"{self.metrics_path}:{damaged}: no event with its numbers; restore it or delete the run")

    def test_errors(self) -> list[float]:
        """The test errors that it has recorded, fractions in [0, 1]; the last is the final one."""
        return [line["test_error"] for line in self.metrics() if "test_error" in line]


def _records(lines: bytes, reader: TypeAdapter[Any]) -> list[dict[str, Any]] | None:
    """The records in some lines of metrics.jsonl, or None if a line is damaged."""
    try:
        records: list[dict[str, Any]] = reader.validate_json(b"[" + lines.replace(b"\n", b",") + b"]")
    except ValidationError:
        return None
    return records if len(records) == lines.count(b"\n") + 1 else None


class StudyFolder:
    """A results folder: the runs of one study file, and the list of those it names today."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan_path = folder / "study.json"
        self.lock_path = folder / ".lock"  # held by the sweep that works on the folder

    def plan(self) -> StudyPlan:
        """The plan, empty before the first."""
        return read_record(self.plan_path, StudyPlan) or StudyPlan()

    def write_plan(self, plan: StudyPlan) -> None:
        """Replace the plan."""
        self._replace_plan(lambda: plan)

    def add_to_plan(self, more: StudyPlan) -> None:
        """Record runs that are trained on their own, without dropping the others."""
        self._replace_plan(
            lambda: more.model_copy(update={"runs": [*self._others({run.folder for run in more.runs}), *more.runs]})
        )

    def drop(self, runs: Sequence[Run]) -> None:
        """Take runs out of the plan."""
        gone = {os.path.relpath(run.folder, self.folder) for run in runs}
        if self.plan().runs:
            self._replace_plan(lambda: self.plan().model_copy(update={"runs": self._others(gone)}))

    def _others(self, folders: Collection[str]) -> list[PlannedRun]:
        return [run for run in self.plan().runs if run.folder not in folders]

    def _replace_plan(self, new: Callable[[], StudyPlan]) -> None:
        """Replace the plan by what `new` returns while no other process may."""
        with locked(self.folder / ".plan.lock", "the plan", wait=True):
            write_held(self.plan_path, new().model_dump_json(indent=1))

    def runs(self) -> list[Run]:
        """The runs that the study names; a second recipe with the same label gets its signature as a suffix."""
        first: dict[str, str] = {}
        runs = []
        for run in self.plan().runs:
            net = Path(run.folder).parent.name
            label = run.label if first.setdefault(run.label, net) == net else f"{run.label}-{net.rpartition('-')[2]}"
            runs.append(Run(self.folder / run.folder, label))
        return runs

    def strays(self, named: Collection[str] | None = None) -> list[Run]:
        """Runs in the folder that the study no longer names, such as those of former settings or seeds.

        `named`: the folders of its runs, relative to its own; by default those of the plan.
        """
        named = {run.folder for run in self.plan().runs} if named is None else named
        all_runs = sorted(str(path.parent.relative_to(self.folder)) for path in self.folder.glob("*/seed*/config.yaml"))
        return [Run(self.folder / folder) for folder in all_runs if folder not in named]

    def strays_line(self, named: Collection[str] | None = None) -> str:
        """A line that counts and names the `strays`; empty if there are none."""
        strays = [str(run.folder.relative_to(self.folder)) for run in self.strays(named)]
        if not strays:
            return ""
        return f"{self.folder}: {counted(len(strays), 'run')} left out, which the study no longer names: {few(strays)}"


def is_study_folder(folder: Path) -> bool:
    """Whether a study was swept into the folder."""
    return StudyFolder(folder).plan_path.exists()


def study_folders(results: Path) -> list[StudyFolder]:
    """The studies in a results folder, by name."""
    return [StudyFolder(plan.parent) for plan in sorted(results.glob("*/study.json"))]
