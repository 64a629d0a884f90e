"""metrics.jsonl as the attempt that writes it sees it; for reading it, see `store.Run.metrics`."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from resexp.errors import UserError
from resexp.runs.records import json_text
from resexp.runs.store import Run
from resexp.utils.files import sync_folder, with_filename


class MetricsWriter:
    """Appends lines to metrics.jsonl. Opening replaces the file by a copy that belongs to this attempt.

    What an attempt that has lost its lease still appends goes to a file that is no longer in the folder.
    """

    def __init__(self, run: Run, kept: int, sha256: str | None) -> None:
        """Keep the first `kept` bytes of the existing file. `sha256`: their expected digest, or None.

        Raises UserError if those bytes are not what they were, LeaseLostError if the run's lease was taken away.
        """
        assert run.lease
        before = run.metrics_path.read_bytes()[:kept] if run.metrics_path.exists() else b""
        self._path, self._digest = run.metrics_path, hashlib.sha256(before)
        if len(before) < kept or sha256 not in (None, self._digest.hexdigest()):
            raise UserError(
                f"{run.metrics_path}: its first {kept} bytes were changed, but the checkpoint was written after them; "
                f"restore the file, or delete the run folder to begin anew"
            )
        own = run.lease.folder / run.metrics_path.name
        with run.lease.guarded():
            self._file = own.open("w+b")
            self._file.write(before)
            self.sync()
            own.rename(run.metrics_path)
            sync_folder(run.folder)

    def append(self, event: str, record: dict[str, Any]) -> None:
        """Add a line."""
        line = json_text({"event": event, **record}).encode() + b"\n"
        with with_filename(self._path):
            self._file.write(line)
            self._file.flush()
        self._digest.update(line)

    def sync(self) -> None:
        """Flush and fsync."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must know to continue behind the lines so far."""
        return {"metrics_bytes": self._file.tell(), "metrics_sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()
