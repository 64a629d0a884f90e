"""Matplotlib's SVG files made small enough for the page: shared styles, short paths, no metadata.

A figure becomes less than half as large. What matplotlib calls ``mark3`` gets the class and the tooltip of that mark,
``panel0`` its place and its scales, and a tick the class ``t``. The page's script finds them by that.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
GROUP, DEFS = f"{SVG}g", f"{SVG}defs"
_USED = re.compile(r"#([\w.-]+)\)?$")
_LEGIBLE = " !$()*+,-./:;=?@[]_{|}~"
"""Letters that a data: URL may hold as they are."""


@dataclass
class Compact:
    """A figure on its way to the page."""

    prefix: str
    """Begins all ids, so that no two figures of a page share one."""
    ink: str
    """The colour that becomes the page's text colour."""
    digits: int
    """Decimals of a point. One is finer than a screen shows; two stay fine where a reader zooms in tenfold."""
    marks: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Class and tooltip of an artist, by matplotlib's id."""
    panels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Attributes of the panels, by matplotlib's id."""
    ids: dict[str, str] = field(default_factory=dict)
    """New ids by old ones."""
    styles: dict[str, str] = field(default_factory=dict)
    """Classes by what they declare."""

    def inline(self, file: bytes, cut: float) -> str:
        """The figure for the page: without background, legend and note, and without the `cut` lowest points."""
        root = ET.fromstring(file)
        for parent in list(root.iter(GROUP)):
            for child in list(parent):
                if child.get("id") in ("patch_1", "legend_1", "note"):
                    parent.remove(child)
        width, height, body = self._parts(root)
        return f'<svg viewBox="0 0 {width:g} {height - cut:.1f}" stroke-linejoin="round">{body}</svg>'

    def file(self, file: bytes) -> str:
        """The figure as a file of its own, on white."""
        width, height, body = self._parts(ET.fromstring(file))
        look = f"color:{self.ink};font-family:'DejaVu Sans',sans-serif"
        size = f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}"'
        return f'<svg xmlns="{SVG[1:-1]}" {size} style="{look}" stroke-linejoin="round">{body}</svg>'

    def _parts(self, root: ET.Element) -> tuple[float, float, str]:
        """Width, height and content."""
        _share_styles(root)
        used = {found[1] for node in root.iter() for value in node.attrib.values() if (found := _USED.search(value))}
        self.ids = {name: f"{self.prefix}_{number}" for number, name in enumerate(sorted(used))}
        body = "".join(self._element(child) for child in root if child.tag in (GROUP, DEFS))
        rules = "".join(f".{name}{{{declared}}}" for declared, name in self.styles.items())
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        return width, height, f"<style>{rules}</style>{body}"

    def _element(self, node: ET.Element) -> str:
        """An element and all that it holds; nothing for one that draws nothing."""
        inside = "".join(self._element(child) for child in node if child.tag != f"{SVG}style")
        inside += escape((node.text or "").strip(), quote=False)
        attributes = self._attributes(node)
        if (node.tag in (GROUP, DEFS) and not inside) or attributes.get("d") == "":
            return ""
        if node.tag == GROUP and not attributes:
            return inside
        _, tip = self.marks.get(node.get("id", ""), ("", ""))
        if tip:
            inside = f"<title>{escape(tip)}</title>{inside}"
        tag = node.tag.removeprefix(SVG)
        listed = "".join(f" {name}='{escape(value)}'" for name, value in attributes.items())
        return f"<{tag}{listed}>{inside}</{tag}>" if inside else f"<{tag}{listed}/>"

    def _attributes(self, node: ET.Element) -> dict[str, str]:
        """What is kept of an element's attributes, and what the page adds."""
        own = node.get("id", "")
        found = dict(self.panels.get(own, {}))
        parts = (part.partition(":") for part in node.get("style", "").replace(self.ink, "currentColor").split(";"))
        style = {name.strip(): value.strip() for name, colon, value in parts if colon}
        style.pop("font-family", None)  # it is the page's, or that of the whole file
        for name, value in node.attrib.items():
            if name == HREF:
                found["href"] = f"#{self.ids[value[1:]]}"
            elif name == "clip-path":
                style[name] = f"url(#{self.ids[value[5:-1]]})"
            elif name == "id" and value in self.ids:
                found[name] = self.ids[value]
            elif name == "d":
                found[name] = _path(value, self.digits)
            elif name in ("x", "y", "width", "height") or (name == "transform" and "rotate(-0 " not in value):
                found[name] = _short(value, 2)
        classes = [self.marks[own][0]] if own in self.marks else ["t"] if re.match("[xy]tick_", own) else []
        if style:
            declared = ";".join(f"{name}:{value}" for name, value in style.items())
            classes.append(self.styles.setdefault(declared, f"{self.prefix}-{len(self.styles)}"))
        return found | ({"class": " ".join(classes)} if classes else {})


def _share_styles(root: ET.Element) -> None:
    """Give each group the style and the clipping that all in it have. Opacity is another thing for a whole group."""
    for group in reversed(list(root.iter(GROUP))):
        drawn = [child for child in group if child.tag != DEFS]
        for name in ("style", "clip-path"):
            first = drawn[0].get(name, "") if len(drawn) > 1 and name not in group.attrib else ""
            if first and not re.search("(^|; )opacity", first) and all(child.get(name) == first for child in drawn):
                group.set(name, first)
                for child in drawn:
                    del child.attrib[name]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".").replace("-0.", "-.").removeprefix("0") or "0"


def _short(text: str, digits: int) -> str:
    return re.sub(r"-?\d+\.\d+", lambda found: _number(float(found[0]), digits), text)


def _path(d: str, digits: int) -> str:
    """Lines as steps: ``M 1 2 L 3 4 L 5 4 z`` becomes ``M1 2l2 2 2 0z``. Curves stay as they are."""
    if set(d) & {"C", "Q"}:
        return _short(" ".join(d.split()), 1)
    if not set(d) & {"L", "z"}:
        return ""
    found = ""
    for part in d.split("M")[1:]:
        numbers = [round(float(word), digits) for word in part.split() if word not in ("L", "z")]
        steps = [after - before for before, after in zip(numbers, numbers[2:], strict=False)]  # of x and y in turn
        start, lines = (" ".join(_number(value, digits) for value in values) for values in (numbers[:2], steps))
        found += f"M{start}{lines and f'l{lines}'}" + "z" * ("z" in part)
    return found.replace(" -", "-")


def data_url(kind: str, text: str, legible: str = "") -> str:
    """A link that is its own file: ``data:text/csv,net%0Aplain-20``; `legible` letters stay as they are, too."""
    return f"data:{kind},{quote(text, safe=_LEGIBLE + legible)}"
