"""Colours and words that all pictures share."""

from collections.abc import Mapping
from typing import Final

from .view import Category

COLOURS: Final[Mapping[Category, str]] = {
    Category.PLAIN: "#7d8ba1",
    Category.SAVED: "#d9901a",
    Category.RECOMPUTED: "#1f9e83",
    Category.FUSED: "#8458d6",
    Category.BACKWARD: "#3d7fd9",
    Category.OPTIMIZER: "#d0507f",
}
"""Strong enough on a light and on a dark ground."""

MEANINGS: Final[Mapping[Category, str]] = {
    Category.PLAIN: "forward",
    Category.SAVED: "saved for backward",
    Category.RECOMPUTED: "recomputed",
    Category.FUSED: "fused",
    Category.BACKWARD: "backward",
    Category.OPTIMIZER: "optimizer",
}

LIGHT: Final[Mapping[str, str]] = {
    "ground": "#f6f7f9",
    "card": "#ffffff",
    "inner": "#eef0f4",
    "line": "#d5dae2",
    "text": "#1c2330",
    "faint": "#647084",
    "edge": "#9aa5b5",
}
DARK: Final[Mapping[str, str]] = {
    "ground": "#12151b",
    "card": "#1d222b",
    "inner": "#171b22",
    "line": "#343c49",
    "text": "#e6e9ef",
    "faint": "#94a0b3",
    "edge": "#5b6676",
}


def css_variables() -> str:
    """The colours as custom properties, in both themes."""
    categories = {str(category): colour for category, colour in COLOURS.items()}
    return (
        f":root{{{_properties({**LIGHT, **categories})}}}"
        f"@media (prefers-color-scheme: dark){{:root{{{_properties(DARK)}}}}}"
    )


def _properties(colours: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())
