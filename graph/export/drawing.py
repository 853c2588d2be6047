"""SVG elements: a thin layer over the standard library's XML."""

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from .style import COLOURS, MEANINGS, css_variables
from .view import Category

_STYLE = """
svg{background:var(--ground);font:12px system-ui,sans-serif}
text{fill:var(--text)} .faint{fill:var(--faint)} .strong{font-weight:600}
.card{fill:var(--card);stroke:var(--line)} .inner{fill:var(--inner);stroke:var(--line)}
.edge{fill:none;stroke:var(--edge);opacity:.75} .axis{stroke:var(--line)}
.live{fill:none;stroke:var(--text);stroke-width:1.2}
"""


class Drawing:
    """An SVG under construction; coordinates are rounded to a tenth of a pixel."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {width:.0f} {height:.0f}",
                "width": f"{width:.0f}",
                "height": f"{height:.0f}",
            },
        )
        self.parent = self.root
        ET.SubElement(self.root, "title").text = title
        colours = (
            f".{c}{{fill:var(--{c})}}.edge.{c}{{fill:none;stroke:var(--{c})}}" for c in COLOURS
        )
        ET.SubElement(self.root, "style").text = css_variables() + _STYLE + "".join(colours)

    def move(self, x: float, y: float) -> None:
        """Count the coordinates of what follows from this point."""
        self.parent = ET.SubElement(self.root, "g", {"transform": f"translate({x:g},{y:g})"})

    def add(
        self, tag: str, attributes: Mapping[str, str | float], text: str = "", tip: str = ""
    ) -> None:
        """An element; `tip` is what a browser shows when the pointer rests on it."""
        given = {name: _attribute(value) for name, value in attributes.items()}
        element = ET.SubElement(self.parent, tag, given)
        if text:
            element.text = text
        if tip:
            ET.SubElement(element, "title").text = tip

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """One line of text; y is its base line."""
        self.add("text", {"x": x, "y": y, "class": style, "text-anchor": anchor}, text)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        style: str,
        tip: str = "",
        **more: str,
    ) -> None:
        """A rectangle."""
        place = {"x": x, "y": y, "width": width, "height": height}
        self.add("rect", {**place, "class": style, **more}, tip=tip)

    def legend(self, x: float, y: float, categories: set[Category]) -> None:
        """What the colours say, in a row."""
        for category in Category:
            if category in categories:
                self.rect(x, y - 9, 10, 10, str(category), rx="2")
                self.text(x + 15, y, MEANINGS[category], "faint")
                x += 34 + 6.4 * len(MEANINGS[category])

    def finish(self) -> bytes:
        """The file."""
        ET.indent(self.root, "")
        data: bytes = ET.tostring(self.root, encoding="utf-8", xml_declaration=True)
        return data


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
