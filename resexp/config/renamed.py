"""Keys of study files that had another name before 0.2."""

from __future__ import annotations

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
"""The name of today for each earlier one. A renamed key is refused with its new name, never read in silence."""
