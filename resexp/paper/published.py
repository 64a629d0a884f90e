"""The numbers that the paper gives for its nets: Tables 2 to 6 and Figs. 4, 6 and 7."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from resexp.config import ModelConfig

ENSEMBLE_TOP5 = 3.57
"""Top-5 error in percent of six nets of different depth, two of them ResNet-152 (Table 5).

The test server measured it on images whose classes are not public. Errors on the validation images are not comparable.
"""
LATE = 48_000
"""Iteration of Fig. 6 from which its errors are read: that of the last drop of the learning rate."""
TEN_CROP, SIDES = 224, (224, 256, 384, 480, 640)
"""Sides in pixels: the ten crops of Tables 2 and 3, and the shorter sides that Table 4 averages over (section 3.4)."""


@dataclass(frozen=True)
class OnViews:
    """Errors of a test on several views of each image, in percent."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Published:
    """A net's numbers in the paper, in percent."""

    train: float | None
    """Training error. CIFAR-10: mean over iterations 48k to 64k of Fig. 6. ImageNet: the end of Fig. 4. The paper does
    not say how it was measured."""
    test: float | None
    """Test error. CIFAR-10: Table 6; for plain nets, which no table has, the mean over iterations 48k to 64k of Fig. 6.
    ImageNet: the end of Fig. 4, on the validation images' centre crops."""
    source: str
    """Where both are printed."""
    ten_crop: OnViews | None = None
    multi_scale: OnViews | None = None
    response_std: float | None = None
    """Standard deviation of the responses of 3x3 layers, mean over layers, read from the vector paths of Fig. 7.
    The paper does not say over which axes it is taken."""
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Ends of the ``train`` and the ``test`` error in percent, as far as the paper shows a spread.

    They are the range of the curve in Fig. 6 from iteration LATE on. For the test error of ResNet-110 they are one
    standard deviation over five runs below and above the mean (Table 6).
    """

    @property
    def has_errors(self) -> bool:
        """Whether there is any error: of plain-110 the paper only says that it is not shown."""
        return any(number is not None for number in (self.train, self.test, self.ten_crop, self.multi_scale))


def published(model: ModelConfig) -> Published | None:
    """The paper's numbers for a net, or None. A run may be compared with them only if it has no departures."""
    shortcut = str(model.shortcut or "") if model.variant == "imagenet" else ""
    return nets().get((model.variant, model.kind, str(model.block), model.depth, shortcut))


@cache
def nets() -> dict[tuple[str, str, str, int, str], Published]:
    """All nets that the paper has numbers for: by variant, kind, block, depth and shortcut."""
    return {
        (row["variant"], row["kind"], row["block"], int(row["depth"]), row["shortcut"]): Published(
            _number(row["train"]),
            _number(row["test"]),
            row["source"],
            _on_views(row, "ten_crop"),
            _on_views(row, "multi_scale"),
            _number(row["response_std"]),
            _bands(row),
        )
        for row in _rows("published.csv")
    }


def _bands(row: dict[str, str]) -> dict[str, tuple[float, float]]:
    curves = fig6(row["kind"], row["block"], int(row["depth"])) if row["variant"] == "cifar" else {}
    late = {split: [error for iteration, error in curve if iteration >= LATE] for split, curve in curves.items()}
    bands = {split: (min(errors), max(errors)) for split, errors in late.items()}
    if spread := _number(row["test_std"]):
        bands["test"] = (float(row["test"]) - spread, float(row["test"]) + spread)
    return bands


def _on_views(row: dict[str, str], mode: str) -> OnViews | None:
    top1 = _number(row[f"{mode}_top1"])
    return None if top1 is None else OnViews(top1, _number(row[f"{mode}_top5"]), row[f"{mode}_source"])


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


@cache
def fig6(kind: str, block: str, depth: int) -> dict[str, list[tuple[int, float]]]:
    """A net's curves in Fig. 6, "train" and "test": points (iteration, error in percent). Empty for a net without any.

    The file has 1,183 points, read from the vector paths of the published PDF. The figure ends at 20 %.
    """
    net = f"{'resnet' if kind == 'residual' else kind}-{depth}"
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in _rows("fig6.csv"):
        of_net = block == "basic" and row["net"] == net
        if of_net and (depth == 1202 or row["panel"] != "right"):  # which draws ResNet-110 again
            curves.setdefault(row["split"], []).append((int(row["iteration"]), float(row["error_pct"])))
    return curves


@cache
def _rows(file: str) -> list[dict[str, str]]:
    lines = Path(__file__).with_name(file).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))
