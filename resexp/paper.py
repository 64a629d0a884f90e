"""What He et al. 2015 (arXiv 1512.03385) published for CIFAR-10, and whether a run may be set beside it."""

from __future__ import annotations

from dataclasses import dataclass

from resexp.config import RunConfig


@dataclass(frozen=True)
class Published:
    """A net's numbers in the paper, in percent."""

    train: float | None
    """Training error, mean over iterations 48k-64k, read from Fig. 6. How the paper measured it is not stated."""
    test: float | None
    """Test error: Table 6; for plain nets, which no table has, the mean over iterations 48k-64k of Fig. 6."""
    source: str


CIFAR10: dict[tuple[str, int], Published] = {
    ("plain", 20): Published(1.34, 9.70, "Fig. 6"),
    ("plain", 32): Published(1.49, 10.13, "Fig. 6"),
    ("plain", 44): Published(2.90, 11.28, "Fig. 6"),
    ("plain", 56): Published(5.83, 13.27, "Fig. 6"),
    ("plain", 110): Published(None, None, "over 60 % training error, not shown (section 4.2)"),
    ("residual", 20): Published(0.73, 8.75, "Fig. 6, Table 6"),
    ("residual", 32): Published(0.29, 7.51, "Fig. 6, Table 6"),
    ("residual", 44): Published(0.18, 7.17, "Fig. 6, Table 6"),
    ("residual", 56): Published(0.12, 6.97, "Fig. 6, Table 6"),
    ("residual", 110): Published(0.06, 6.61, "Fig. 6; mean of 5 runs, Table 6"),
    ("residual", 1202): Published(0.08, 7.93, "Fig. 6, Table 6"),
}


def differences(config: RunConfig, dataset: str) -> list[str]:
    """Where a run departs from the paper's data, nets and recipe (section 4.2), one phrase each; empty: comparable.

    The split is not counted: whether the paper trained on 45k or 50k images is ambiguous.
    """
    data, model, train = config.data, config.model, config.train
    pairs: list[tuple[str, object, object]] = [
        ("images", dataset, "cifar10"),
        ("image size", data.resize or 32 if dataset == "cifar10" else 32, 32),
        ("crop padding", data.pad, 4),
        ("flips", data.flip, True),
        ("width", model.width, 16),
        ("shortcut", model.shortcut, "A" if model.kind == "residual" else None),
        ("steps", train.steps, 64_000),
        ("batch size", train.batch_size, 128),
        ("learning rate", train.lr, 0.1),
        ("milestones", _listed(train.milestones), _listed((32_000, 48_000))),
        ("gamma", train.gamma, 0.1),
        ("momentum", train.momentum, 0.9),
        ("weight decay", train.weight_decay, 1e-4),
        ("warm-up rate", train.warmup_lr, 0.01 if (model.kind, model.depth) == ("residual", 110) else None),
    ]
    return [f"{what} {_shown(ours)} instead of {_shown(theirs)}" for what, ours, theirs in pairs if ours != theirs]


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(f"{value:,}" for value in values) or "none"


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value}"
