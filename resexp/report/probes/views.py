"""Tests on several views of each image, as in the paper's ImageNet tables."""

from __future__ import annotations

from resexp import paper
from resexp.report.estimates import Estimate
from resexp.report.formatting import NOTHING, filled, listed
from resexp.report.probes.material import Found, Material, Record, Section
from resexp.report.probes.panels import span

MODES = ("ten-crop", "multi-scale")


class Views(Record):
    """What a test on several views found; errors are fractions, those of top-5 where there are classes enough."""

    views: int
    crop: int | None = None
    pad: int = 0
    sides: tuple[int, ...] = ()
    test_error: float
    test_top5_error: float | None = None
    single_view_test_error: float
    single_view_test_top5_error: float | None = None

    @property
    def places(self) -> list[str]:
        """The crop, or the sides, in pixels."""
        return list(map(str, self.sides or (self.crop,)))

    @property
    def as_in_the_paper(self) -> bool:
        """Whether ImageNet's images were so tested for the paper's tables."""
        return self.sides == paper.SIDES if self.sides else (self.crop, self.pad) == (paper.TEN_CROP, 0)


def views(material: Material) -> Section | None:
    """A table of test errors with the paper's, one row per net."""
    found = {mode: {net.label: net for net in material.latest(mode, Views)[1]} for mode in MODES}
    kept = [mode for mode in MODES if found[mode]]
    if not kept:
        return None
    labels = list(dict.fromkeys(label for mode in kept for label in found[mode]))
    nets = {label: next(found[mode][label] for mode in kept if label in found[mode]) for label in labels}
    header, rows = ["net", "single view", "single view, top-5"], []
    for mode in kept:
        header += [mode, f"{mode}, top-5", f"paper: {mode} / top-5"]
    for label, net in nets.items():
        row = [label, _errors([r.single_view_test_error for r in net.seeds])]
        row.append(_errors([r.single_view_test_top5_error for r in net.seeds]))
        for mode in kept:
            row += _tested(mode, found[mode][label]) if label in found[mode] else [NOTHING] * 3
        rows.append(row)
    changes = [f"{span(map(_change, found[mode].values()))} points with {mode}" for mode in kept]
    worse = [sentence for mode in kept for sentence in _worse(mode, list(found[mode].values()))]
    how = [
        f"{mode}: {span_of}" for mode in kept if (span_of := ", ".join(dict.fromkeys(map(_how, found[mode].values()))))
    ]
    return Section(
        "Several views",
        " ".join([f"Against a single view, the test error changes by {' and by '.join(changes)}.", *worse]),
        f"Test errors in percent, mean ± standard deviation over seeds, of the last weights. {'; '.join(how)}."
        f"{_beside_the_paper(found)}",
        table=filled(header, rows),
    )


def _tested(mode: str, net: Found[Views]) -> list[str]:
    """Cells of a net tested with several views: top-1 and top-5 error, and the paper's."""
    theirs = _published(mode, net)
    beside = NOTHING
    if theirs:
        beside = f"{theirs.top1:.2f}" if theirs.top5 is None else f"{theirs.top1:.2f} / {theirs.top5:.2f}"
    return [_errors([r.test_error for r in net.seeds]), _errors([r.test_top5_error for r in net.seeds]), beside]


def _published(mode: str, net: Found[Views]) -> paper.OnViews | None:
    """The paper's numbers, where it has tested the net so, and the run is not otherwise set apart from it."""
    if not net.seeds[0].as_in_the_paper:
        return None
    theirs: paper.OnViews | None = getattr(net.run.published, mode.replace("-", "_"), None)
    return theirs


def _beside_the_paper(found: dict[str, dict[str, Found[Views]]]) -> str:
    if all(net.run.config.model.variant != "imagenet" for nets in found.values() for net in nets.values()):
        return ""
    theirs = [_published(mode, net) for mode, nets in found.items() for net in nets.values()]
    sources = listed(sorted({one.source for one in theirs if one}))
    sides = f"{', '.join(map(str, paper.SIDES[:-1]))} and {paper.SIDES[-1]}"
    return (
        f" The paper's numbers{sources and f' ({sources})'} stand next to nets of its recipe with the same views: ten "
        f"crops of {paper.TEN_CROP} pixels, or sides of {sides}."
    )


def _errors(fractions: list[float] | list[float | None]) -> str:
    known = [100 * fraction for fraction in fractions if fraction is not None]
    return str(Estimate(tuple(known))) if len(known) == len(fractions) else NOTHING


def _change(net: Found[Views]) -> float:
    return 100 * float(net.mean(lambda r: r.test_error - r.single_view_test_error))


def _worse(mode: str, nets: list[Found[Views]]) -> list[str]:
    """A sentence for each reason why a mode raises the error of some nets."""
    reasons: dict[str, list[str]] = {}
    for net in nets:
        if _change(net) > 0:
            reasons.setdefault(_reason(net), []).append(net.label)
    return [
        f"With {mode} it rises in {'every net' if len(labels) == len(nets) else listed(labels)}, because {reason}."
        for reason, labels in reasons.items()
    ]


def _reason(net: Found[Views]) -> str:
    first = net.seeds[0]
    if first.sides:
        return "the nets know objects in the sizes of training only"
    if first.pad or net.run.config.model.variant == "imagenet":
        return "a corner shows less of an object than the centre"
    return f"crops of {first.crop} pixels are smaller than the images that the nets were trained on"


def _how(net: Found[Views]) -> str:
    first = net.seeds[0]
    scale = f"sides of {', '.join(map(str, first.sides))}" if first.sides else f"crops of {first.crop}"
    padded = f" from images padded by {first.pad}" if first.pad else ""
    return f"{first.views} views, {scale} pixels{padded}"
