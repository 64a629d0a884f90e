"""Tests on several views of each image, as in the paper's ImageNet tables."""

from __future__ import annotations

from resexp import paper
from resexp.report.estimates import Estimate
from resexp.report.formatting import NOTHING, filled, span
from resexp.report.probes.results import NetResult, PageSection, ProbeRecord, ProbeResults, latest
from resexp.report.stats import grouped
from resexp.utils.text import listed

MODES = ("ten-crop", "multi-scale")


class Views(ProbeRecord):
    """A test on several views. Errors are fractions, those of top-5 where there are classes enough."""

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


def views(results: ProbeResults) -> PageSection | None:
    """A table of test errors with the paper's, one row per net."""
    tested = {mode: nets for mode in MODES if (nets := latest(results.of(mode, Views)))}
    if not tested:
        return None
    header, rows = ["net", "single view", "single view, top-5"], dict[str, list[str]]()
    for nets in tested.values():
        for net in nets:
            rows.setdefault(net.label, [net.label, *_errors(net, "single_view_")])
    for mode, nets in tested.items():
        header += [mode, f"{mode}, top-5", f"paper: {mode} / top-5"]
        cells = dict.fromkeys(rows, [NOTHING] * 3)
        for net in nets:
            theirs = _published(net)
            errors = (theirs.top1, theirs.top5) if theirs else ()
            beside = " / ".join(f"{error:.2f}" for error in errors if error is not None) or NOTHING
            cells[net.label] = [*_errors(net), beside]
        for label, row in rows.items():
            row += cells[label]
    changes = [f"{span(map(_change, nets))} points with {mode}" for mode, nets in tested.items()]
    worse = [sentence for mode, nets in tested.items() for sentence in _worse(mode, nets)]
    how = [f"{mode}: {', '.join(dict.fromkeys(map(_how, nets)))}" for mode, nets in tested.items()]
    return PageSection(
        "Several crops and sizes",
        " ".join([f"Compared with a single view, the test error changes by {' and by '.join(changes)}.", *worse]),
        f"Test errors in percent, mean ± standard deviation over seeds, of the last weights. {'; '.join(how)}."
        f"{_of_the_paper(tested)}",
        table=filled(header, list(rows.values())),
    )


def _published(net: NetResult[Views]) -> paper.OnViews | None:
    """The paper's numbers, where it has tested the net so, and the run does not depart from it elsewhere."""
    first = net.records[0]
    if net.published and first.sides == paper.SIDES:
        return net.published.multi_scale
    if net.published and (first.crop, first.pad) == (paper.TEN_CROP, 0):
        return net.published.ten_crop
    return None


def _of_the_paper(tested: dict[str, list[NetResult[Views]]]) -> str:
    nets = [net for nets in tested.values() for net in nets]
    if all(net.runs[0].config.model.variant != "imagenet" for net in nets):
        return ""
    sources = listed(sorted({theirs.source for theirs in map(_published, nets) if theirs}))
    sides = f"{', '.join(map(str, paper.SIDES[:-1]))} and {paper.SIDES[-1]}"
    return (
        f" The paper's numbers{sources and f' ({sources})'} stand next to nets of its recipe with the same views: ten "
        f"crops of {paper.TEN_CROP} pixels, or sides of {sides}."
    )


def _errors(net: NetResult[Views], prefix: str = "") -> list[str]:
    """The top-1 and the top-5 error, each NOTHING where a record lacks it."""
    errors = [[getattr(r, f"{prefix}{name}") for r in net.records] for name in ("test_error", "test_top5_error")]
    return [NOTHING if None in of else str(Estimate(tuple(100 * error for error in of))) for of in errors]


def _change(net: NetResult[Views]) -> float:
    return 100 * float(net.mean(lambda r: r.test_error - r.single_view_test_error))


def _worse(mode: str, nets: list[NetResult[Views]]) -> list[str]:
    """A sentence for each way in which a mode differs from training, with the nets whose error it raises."""
    worse = grouped([net for net in nets if _change(net) > 0], _reason)
    which = {
        why: "every net" if alike == nets else listed([net.label for net in alike]) for why, alike in worse.items()
    }
    return [f"With {mode} it rises in {names}; {reason}." for reason, names in which.items()]


def _reason(net: NetResult[Views]) -> str:
    first = net.records[0]
    if first.sides:
        return "its sizes are not those of training"
    if first.pad or net.runs[0].config.model.variant == "imagenet":
        return "its corners show less of an object than the centre"
    return f"crops of {first.crop} pixels are smaller than the images of training"


def _how(net: NetResult[Views]) -> str:
    first = net.records[0]
    scale = f"sides of {', '.join(map(str, first.sides))}" if first.sides else f"crops of {first.crop}"
    padded = f" from images padded by {first.pad}" if first.pad else ""
    return f"{first.views} views, {scale} pixels{padded}"
