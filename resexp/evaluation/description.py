"""What a run's net is and takes, for those who use it without the run."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
import torch

import resexp
from resexp.config import ImageNetData, RunConfig
from resexp.config.nets import Net
from resexp.data import open_dataset
from resexp.data.input import open_input
from resexp.device.hardware import Hardware
from resexp.errors import UserError
from resexp.runs.store import Run
from resexp.runs.weights_file import Description

log = logging.getLogger(__name__)


def describe(run: Run, config: RunConfig, step: int) -> Description:
    """The description of a run's weights.

    Where the images that it was trained on are not here, it has no classes, size and mean, and a warning is logged.
    """
    tests = [line["test_error"] for line in run.metrics() if "test_error" in line]
    known: dict[str, Any] = {}
    try:
        known = _images(run, config)
    except (UserError, OSError) as error:
        log.warning(f"{run.folder}: written without mean and classes, for its images are not here: {error}")
    return Description(
        resexp=resexp.__version__,
        net=Net(config.model, 0, 0).name,
        data=config.data.model_dump(mode="json", exclude={"path"}, exclude_defaults=True)
        | {"source": config.data.source},
        signature=config.signature,
        seed=config.seed,
        step=step,
        test_error=tests[-1] if tests else None,
        **known,
    )


def _images(run: Run, config: RunConfig) -> dict[str, Any]:
    dataset, manifest = open_dataset(config.data), run.manifest()
    if manifest and manifest.data.fingerprint != dataset.fingerprint:
        raise UserError(f"other data (fingerprint {dataset.fingerprint}, the run's {manifest.data.fingerprint})")
    with contextlib.closing(open_input(config, dataset, Hardware(torch.device("cpu"), "fp32"))) as pipeline:
        mean = pipeline.mean.numpy()
    if (mean == mean[0, 0]).all():
        mean = mean[0, 0]
    exact = np.vectorize(lambda value: float(f"{value:.9g}"), otypes=[float])  # nine digits tell float32 apart
    return {
        "classes": dataset.classes,
        "size": dataset.size,
        "mean": exact(mean).tolist(),
        "val_resize": config.data.val_resize if isinstance(config.data, ImageNetData) else None,
    }
