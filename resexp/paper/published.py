"""The paper's numbers: their form, and those for CIFAR-10 of Table 6, Fig. 6 and Fig. 7."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


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
    """Where both stand."""
    ten_crop: OnViews | None = None
    multi_scale: OnViews | None = None


CIFAR10: dict[tuple[str, str, int], Published] = {
    ("plain", "basic", 20): Published(1.34, 9.70, "Fig. 6"),
    ("plain", "basic", 32): Published(1.49, 10.13, "Fig. 6"),
    ("plain", "basic", 44): Published(2.90, 11.28, "Fig. 6"),
    ("plain", "basic", 56): Published(5.83, 13.27, "Fig. 6"),
    ("plain", "basic", 110): Published(None, None, "over 60 % training error, not shown (section 4.2)"),
    ("residual", "basic", 20): Published(0.73, 8.75, "Fig. 6, Table 6"),
    ("residual", "basic", 32): Published(0.29, 7.51, "Fig. 6, Table 6"),
    ("residual", "basic", 44): Published(0.18, 7.17, "Fig. 6, Table 6"),
    ("residual", "basic", 56): Published(0.12, 6.97, "Fig. 6, Table 6"),
    ("residual", "basic", 110): Published(0.06, 6.61, "Fig. 6; mean of 5 runs, Table 6"),
    ("residual", "basic", 1202): Published(0.08, 7.93, "Fig. 6, Table 6"),
    ("residual", "bottleneck", 164): Published(None, 5.93, "arXiv 1603.05027, Table 3"),
    ("residual", "bottleneck", 1001): Published(None, 7.61, "arXiv 1603.05027, Table 3"),
    ("preact", "basic", 110): Published(None, 6.37, "arXiv 1603.05027, Table 3"),
    ("preact", "bottleneck", 164): Published(None, 5.46, "arXiv 1603.05027, Table 3"),
    ("preact", "bottleneck", 1001): Published(None, 4.92, "arXiv 1603.05027, Table 3 (a median)"),
}
"""By kind, block and depth."""

FIG7: dict[tuple[str, str, int], float] = {
    ("plain", "basic", 20): 1.82,
    ("plain", "basic", 56): 1.53,
    ("residual", "basic", 20): 1.62,
    ("residual", "basic", 56): 1.13,
    ("residual", "basic", 110): 0.99,
}
"""Standard deviation of the responses of 3x3 layers, mean over layers, by kind, block and depth.

Read from the vector paths of Fig. 7 in the published PDF. The paper does not say over which axes it is taken.
"""


def fig6(kind: str, block: str, depth: int) -> dict[str, list[tuple[int, float]]]:
    """A net's curves in Fig. 6, "train" and "test": points (iteration, error in percent). Empty for a net without any.

    The file has 1,183 points, read from the vector paths of the published PDF. The figure ends at 20 %.
    """
    return _fig6().get((kind, block, depth), {})


@cache
def _fig6() -> dict[tuple[str, str, int], dict[str, list[tuple[int, float]]]]:
    curves: dict[tuple[str, str, int], dict[str, list[tuple[int, float]]]] = {}
    lines = (resources.files("resexp.paper") / "fig6.csv").read_text().splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        if row["panel"] == "right" and row["net"] == "resnet-110":
            continue  # drawn in the middle panel, and again with ResNet-1202
        name, _, depth = row["net"].partition("-")
        net = ("residual" if name == "resnet" else name, "basic", int(depth))
        points = curves.setdefault(net, {}).setdefault(row["split"], [])
        points.append((int(row["iteration"]), float(row["error_pct"])))
    return curves
