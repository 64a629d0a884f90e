"""Tests on several views of each image, as in the paper's ImageNet tables."""

from __future__ import annotations

from resexp.report.estimates import Estimate
from resexp.report.probes.material import Found, Material, Record, Section
from resexp.report.probes.panels import span

MODES = ("ten-crop", "multi-scale")


class Views(Record):
    """What a test on several views found; errors are fractions."""

    views: int
    crop: int | None = None
    sides: tuple[int, ...] = ()
    test_error: float
    single_view_test_error: float

    @property
    def places(self) -> list[str]:
        """The crop, or the sides, in pixels."""
        return list(map(str, self.sides or (self.crop,)))


def views(material: Material) -> Section | None:
    """A table of test errors, a row a net."""
    found = {mode: {net.label: net for net in material.latest(mode, Views)[1]} for mode in MODES}
    kept = [mode for mode in MODES if found[mode]]
    if not kept:
        return None
    labels = list(dict.fromkeys(label for mode in kept for label in found[mode]))
    nets = {label: next(found[mode][label] for mode in kept if label in found[mode]) for label in labels}
    rows = [
        [label, _errors([r.single_view_test_error for r in net.seeds]), *(_tested(found[mode], label) for mode in kept)]
        for label, net in nets.items()
    ]
    changes = [f"{span(map(_change, found[mode].values()))} points with {mode}" for mode in kept]
    how = [
        f"{mode}: {span_of}" for mode in kept if (span_of := ", ".join(dict.fromkeys(map(_how, found[mode].values()))))
    ]
    return Section(
        "Several views",
        f"Against a single view, the test error changes by {' and by '.join(changes)}.",
        f"Test errors in percent, mean ± standard deviation over seeds, of the last weights. {'; '.join(how)}.",
        table=(["net", "single view", *kept], rows),
    )


def _tested(nets: dict[str, Found[Views]], label: str) -> str:
    return _errors([r.test_error for r in nets[label].seeds]) if label in nets else "–"


def _errors(fractions: list[float]) -> str:
    return str(Estimate(tuple(100 * fraction for fraction in fractions)))


def _change(net: Found[Views]) -> float:
    return 100 * float(net.mean(lambda r: r.test_error - r.single_view_test_error))


def _how(net: Found[Views]) -> str:
    first = net.seeds[0]
    scale = f"sides of {', '.join(map(str, first.sides))}" if first.sides else f"crops of {first.crop}"
    return f"{first.views} views, {scale} pixels"
