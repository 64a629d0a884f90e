"""Metrics of runs in programs that show experiments: TensorBoard, Trackio, Weights & Biases, MLflow.

The process of a sweep reads metrics.jsonl of its runs and passes each new line on. Runs know nothing of it.
"""

from resexp.tracking.adapters import TRACKERS, check
from resexp.tracking.follower import Follower, track_study

__all__ = ["TRACKERS", "Follower", "check", "track_study"]
