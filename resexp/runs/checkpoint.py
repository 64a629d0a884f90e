"""Checkpoints: written atomically, checksummed, loaded without running code; the previous one is kept.

``torch.load(path, weights_only=True)`` reads one without resexp.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resexp.errors import DamagedCheckpointError, UserError
from resexp.runs.store import Run
from resexp.utils.untrusted import read_file, refuse_compressed

_KIND = b"resexp checkpoint "
_DIGEST_BYTES = len(_KIND) + len(b"3 sha256 ") + 64 + 1
MAX_BYTES = 1 << 36

_PARTS: dict[str, dict[str, Any]] = {
    "": {
        "signature": str, "seed": int, "trainer": dict, "evaluated": int, "tested": bool, "best": dict | None,
        "window": list, "metrics_bytes": int,
    },
    "trainer": {
        "step": int, "model": dict, "optimizer": dict, "scaler": dict, "warming_up": bool, "running_error": float,
        "seconds": float,
    },
    "best": {"step": int, "val_error": float, "model": dict},
}  # fmt: skip
"""Keys of the state and of its parts that are checked, with their types."""


def pack(state: dict[str, Any]) -> bytes:
    """The content of a checkpoint that holds `state`: tensors, numbers, text, containers of them.

    It is what torch.save writes, a zip archive. The archive's comment has the digest of all bytes before it.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(-2, os.SEEK_END)
    buffer.write(struct.pack("<H", _DIGEST_BYTES))  # the length of the comment ends the archive
    with buffer.getbuffer() as archive:
        digest = _digest_line(archive)
    buffer.write(digest)
    return buffer.getvalue()


def _digest_line(archive: bytes | memoryview) -> bytes:
    return _KIND + b"3 sha256 %s\n" % hashlib.sha256(archive).hexdigest().encode()


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """Load what `save` saved. Raises DamagedCheckpointError if a byte is missing or changed, UserError if another
    version of resexp wrote it, or it is no checkpoint of resexp."""
    archive = read_file(path, MAX_BYTES)
    digest = archive[-_DIGEST_BYTES:]
    if digest != _digest_line(memoryview(archive)[:-_DIGEST_BYTES]):
        if digest.startswith(_KIND) and not digest.startswith(_KIND + b"3 "):
            why = "written by another version of resexp, which can finish it; delete the run folder to begin anew"
            raise UserError(f"{path}: {why}")
        raise DamagedCheckpointError(f"{path}: truncated or changed")
    try:
        state = load_stored(archive, device)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # the digest is no signature: whoever wrote the file can have written anything
        raise _foreign(path, str(error).partition("\n")[0]) from None
    for name, kinds in _PARTS.items():  # values are checked no deeper, for they may contain themselves
        part = state[name] if name else state
        for key, kind in kinds.items() if part is not None else ():
            if not isinstance(part, dict) or key not in part or not isinstance(part[key], kind):
                raise _foreign(path, f"{key} is missing, or not of its kind")
    return dict(state)


def load_stored(archive: bytes, device: torch.device) -> Any:
    """Load what torch.save wrote. Raises ValueError for a compressed archive, which torch.save never writes."""
    refuse_compressed(archive)
    return torch.load(io.BytesIO(archive), map_location=device, weights_only=True)


def _foreign(path: Path, why: str) -> UserError:
    return UserError(f"{path}: no checkpoint of resexp's ({why}); delete it, or the run folder, to begin anew")


def load_into(model: nn.Module, weights: dict[str, Any], folder: Path) -> None:
    """Give `model` the weights that a checkpoint in `folder` holds. Raises UserError if they are of another net."""
    own = model.state_dict()
    if weights.keys() != own.keys() or not all(fits(weights[name], value) for name, value in own.items()):
        raise UserError(f"{folder}: its checkpoint holds the weights of another net; delete it to begin anew")
    model.load_state_dict(weights)


def fits(value: Any, own: Tensor) -> bool:
    """Whether `value`, from a checkpoint, is a tensor like `own`."""
    return is_plain(value) and value.shape == own.shape and value.dtype == own.dtype


def is_plain(value: Any) -> bool:
    """Whether `value` is a dense tensor that holds its numbers."""
    return type(value) is Tensor and value.layout == torch.strided and not value.is_meta


def save(run: Run, state: dict[str, Any]) -> None:
    """Write `state` as checkpoint.pt; the former checkpoint.pt becomes checkpoint.prev.pt."""
    assert run.lease
    if run.checkpoint_path.exists():
        # A hard link first, so that at no moment is there no checkpoint.
        spare = run.lease.folder / run.previous_checkpoint_path.name
        with run.lease.guarded():
            spare.unlink(missing_ok=True)
            try:
                os.link(run.checkpoint_path, spare)
            except OSError:  # a file system without hard links
                shutil.copyfile(run.checkpoint_path, spare)
            spare.replace(run.previous_checkpoint_path)
    run.publish(run.checkpoint_path, pack(state))


def last_weights(run: Run) -> tuple[int, dict[str, Tensor]]:
    """The step and the weights of the last checkpoint, on the CPU; never of the one before it.

    Raises UserError if there is none, or it is damaged.
    """
    try:
        state = read(run.checkpoint_path, torch.device("cpu"))["trainer"]
    except FileNotFoundError:
        what = "no checkpoint.pt"
    except DamagedCheckpointError:
        what = "checkpoint.pt is damaged"
    else:
        return state["step"], state["model"]
    finished = run.status().state == "finished"
    again = f"resexp sweep STUDY --rerun {run.label}" if finished else f"resexp train {run.folder}"
    raise UserError(f"{run.folder}: {what}, so there are no weights; train it again with {again}")


def load(run: Run, device: torch.device) -> tuple[dict[str, Any] | None, str]:
    """The newest whole checkpoint, or None; and a line that names damaged ones, if any."""
    damaged = []
    for path in (run.checkpoint_path, run.previous_checkpoint_path):
        if path.exists():
            try:
                state = read(path, device)
            except DamagedCheckpointError:
                damaged.append(path.name)
                # Or the next save would make it the previous one. In the lease's folder, so that only the holder can.
                if run.lease:
                    with run.lease.guarded():
                        path.rename(run.lease.folder / path.name).unlink()
            else:
                return state, f"{' and '.join(damaged)} damaged; continuing from {path.name}" if damaged else ""
    return None, f"{' and '.join(damaged)} damaged; starting anew" if damaged else ""
