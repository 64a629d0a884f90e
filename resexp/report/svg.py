"""Matplotlib's SVG files made small enough for the page: shared styles, short paths, no metadata.

A figure of 60 kB becomes one of 15 kB. What matplotlib calls ``mark3`` gets the class and the tooltip of that mark,
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
_USED = re.compile(r"#([\w.-]+)\)?$")
_LEGIBLE = " !$()*+,-./:;=?@[]_{|}~"
"""Letters that a data: URL may hold as they are."""


@dataclass(frozen=True)
class Mark:
    """What the page knows of an artist."""

    classes: str
    tip: str = ""


@dataclass
class Compact:
    """A figure on its way to the page."""

    prefix: str
    """Begins all ids, so that no two figures of a page share one."""
    ink: str
    """The colour that becomes the page's text colour."""
    digits: int
    """Decimals of a point. One is finer than a screen shows; two stay fine where a reader zooms in tenfold."""
    marks: Mapping[str, Mark] = field(default_factory=dict)
    """By matplotlib's id."""
    panels: Mapping[str, str] = field(default_factory=dict)
    """Attributes of the panels, by matplotlib's id."""
    names: dict[str, str] = field(default_factory=dict)
    """New ids by old ones."""
    looks: dict[str, str] = field(default_factory=dict)
    """Classes by what they declare."""

    def inline(self, file: bytes, cut: float) -> str:
        """The figure for the page: without background, legend and note, and without the `cut` lowest points."""
        root = ET.fromstring(file)
        for parent in list(root.iter(f"{SVG}g")):
            for child in list(parent):
                if child.get("id") in ("patch_1", "legend_1", "note"):
                    parent.remove(child)
        width, height = _size(root)
        return f'<svg viewBox="0 0 {width:g} {height - cut:.1f}" stroke-linejoin="round">{self._body(root)}</svg>'

    def file(self, file: bytes) -> str:
        """The figure as a file of its own, on white."""
        root = ET.fromstring(file)
        width, height = _size(root)
        look = f"color:{self.ink};font-family:'DejaVu Sans',sans-serif"
        size = f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}"'
        return f'<svg xmlns="{SVG[1:-1]}" {size} style="{look}" stroke-linejoin="round">{self._body(root)}</svg>'

    def _body(self, root: ET.Element) -> str:
        used = {found[1] for node in root.iter() for value in node.attrib.values() if (found := _USED.search(value))}
        self.names = {name: f"{self.prefix}_{number}" for number, name in enumerate(sorted(used))}
        nodes = [_Node(child, self) for child in root if child.tag in (f"{SVG}g", f"{SVG}defs")]
        self.looks = {}
        body = "".join(node.text({}, self) for node in nodes)
        rules = "".join(f".{name}{{{declared}}}" for declared, name in self.looks.items())
        return f"<style>{rules}</style>{body}"

    def look(self, style: Mapping[str, str]) -> str:
        """The class of a style."""
        declared = ";".join(f"{name}:{value}" for name, value in style.items())
        return self.looks.setdefault(declared, f"{self.prefix}-{len(self.looks)}")


class _Node:
    """An element and what it needs to look as it does."""

    def __init__(self, node: ET.Element, made: Compact) -> None:
        self.tag = node.tag.removeprefix(SVG)
        self.children = [_Node(child, made) for child in node if child.tag != f"{SVG}style"]
        self.words = escape((node.text or "").strip(), quote=False)
        self.style = _declared(node.get("style", ""), made.ink)
        self.attributes: dict[str, str] = {}
        for name, value in node.attrib.items():
            self._take(name, value, made)
        own = node.get("id", "")
        mark = made.marks.get(own)
        self.tip, self.more = mark.tip if mark else "", made.panels.get(own, "")
        if mark or re.match("[xy]tick_", own):
            self.attributes["class"] = mark.classes if mark else "t"
        if self.tag == "g":
            self._gather()

    def _take(self, name: str, value: str, made: Compact) -> None:
        if name == HREF:
            self.attributes["href"] = f"#{made.names[value[1:]]}"
        elif name == "clip-path":
            self.style[name] = f"url(#{made.names[value[5:-1]]})"
        elif name == "id" and value in made.names:
            self.attributes[name] = made.names[value]
        elif name == "d":
            self.attributes[name] = _path(value, made.digits)
        elif name in ("x", "y", "width", "height") or (name == "transform" and "rotate(-0 " not in value):
            self.attributes[name] = _short(value, 2)

    def _gather(self) -> None:
        """Take over the style that everything drawn in a group has in common."""
        drawn = [child for child in self.children if child.tag != "defs"]
        if len(drawn) < 2:
            return
        common = set.intersection(*(set(child.style.items()) for child in drawn))
        common = {pair for pair in common if pair[0] != "opacity"}  # that of a group is another thing
        self.style |= dict(sorted(common))
        for child in drawn:
            child.style = {name: value for name, value in child.style.items() if (name, value) not in common}

    def text(self, inherited: Mapping[str, str], made: Compact) -> str:
        """The element, without the style that it inherits."""
        whole = {**inherited, **self.style}
        below: Mapping[str, str] = {} if self.tag == "defs" else whole
        inside = "".join(child.text(below, made) for child in self.children) + self.words
        unseen = self.tag == "path" and whole.get("fill") == "none" and "stroke" not in whole and inherited
        if (
            unseen
            or (self.tag == "path" and not self.attributes.get("d"))
            or (self.tag in ("g", "defs") and not inside)
        ):
            return ""
        attributes = dict(self.attributes)
        if style := {name: value for name, value in self.style.items() if inherited.get(name) != value}:
            attributes["class"] = " ".join(filter(None, (attributes.get("class"), made.look(style))))
        if self.tag == "g" and not (attributes or self.more):
            return inside
        listed = [f" {name}='{escape(value)}'" for name, value in attributes.items()]
        title = f"<title>{escape(self.tip)}</title>" if self.tip else ""
        end = f">{title}{inside}</{self.tag}>" if title or inside else "/>"
        return f"<{self.tag}{''.join(listed)}{self.more}{end}"


def _size(root: ET.Element) -> tuple[float, float]:
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    return width, height


def _declared(style: str, ink: str) -> dict[str, str]:
    """The declarations by name, without the font, which is the page's or that of the whole file."""
    pairs = (part.partition(":")[::2] for part in style.replace(ink, "currentColor").split(";") if ":" in part)
    return {name.strip(): value.strip() for name, value in pairs if name.strip() != "font-family"}


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".").replace("-0.", "-.").removeprefix("0") or "0"


def _short(text: str, digits: int) -> str:
    return re.sub(r"-?\d+\.\d+", lambda found: _number(float(found[0]), digits), text)


def _path(d: str, digits: int) -> str:
    """Lines as steps: ``M 1 2 L 3 4 L 5 4 z`` becomes ``M1 2l2 2 2 0z``. Curves stay as they are."""
    tokens = d.split()
    if set(tokens) & {"C", "Q"}:
        return _short(" ".join(tokens), 1)
    found, x, y, before = list[str](), 0.0, 0.0, ""
    rest = iter(tokens)
    for letter in rest:
        if letter == "z":
            found.append("z")
        else:
            to_x, to_y = round(float(next(rest)), digits), round(float(next(rest)), digits)
            if letter == "M":
                found.append(f"M{_number(to_x, digits)} {_number(to_y, digits)}")
            else:
                start = " " if before == "L" else "l"
                found.append(f"{start}{_number(to_x - x, digits)} {_number(to_y - y, digits)}")
            x, y = to_x, to_y
        before = letter
    path = "".join(found).replace(" -", "-")
    return path if path.strip("M -.0123456789") else ""  # a point alone draws nothing


def data_url(kind: str, text: str, legible: str = "") -> str:
    """A link that is its own file: ``data:text/csv,net%0Aplain-20``; `legible` letters stay as they are, too."""
    return f"data:{kind},{quote(text, safe=_LEGIBLE + legible)}"
