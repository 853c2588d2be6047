"""One HTML file to look around in a graph: no network, no library, everything inside."""

import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any, TypeAlias

from ..ir import Value
from ..text import format_attr
from .execution import Range
from .groups import Group, broad_values, group_nodes, open_scopes
from .layout import METRICS
from .memory import category_of_span
from .style import MEANINGS, css_variables
from .view import Category, Phase, View, saved_bytes

_SCRIPTS = (
    "layout.js",
    "model.js",
    "camera.js",
    "graph.js",
    "memory.js",
    "panel.js",
    "search.js",
    "main.js",
)
_PHASES = list(Phase)
_CATEGORIES = list(Category)

Packed: TypeAlias = list[Any]
"""Lists of numbers and texts; `page/model.js` unpacks them."""


def write_html(view: View, opened: Sequence[str] = ()) -> bytes:
    """The page, with some scopes open at first.

    Raises:
        GraphError: there is no such scope.
    """
    groups = group_nodes(view)
    data = _pack(view, groups, sorted(open_scopes(groups, opened)))
    page = files(__package__).joinpath("page")

    def part(name: str) -> str:
        return page.joinpath(name).read_text(encoding="utf-8")

    text = Template(part("page.html")).substitute(
        title=f"{view.graph.name}: {view.stage}",
        style=css_variables() + part("page.css"),
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        script='"use strict";\n' + "\n".join(map(part, _SCRIPTS)),
    )
    return text.encode()


class _Table:
    """Texts that repeat, each kept once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))


def _pack(view: View, groups: Sequence[Group], opened: list[str]) -> dict[str, Any]:
    graph = view.graph
    table, types = _Table(), _Table()
    values = [i.value for i in graph.inputs] + [v for node in graph.nodes for v in node.outputs]
    places = {value.name: k for k, value in enumerate(values)}
    by_text = {str(value.type): value.type for value in values}

    def result(value: Value) -> Packed:
        category = _CATEGORIES.index(view.value_categories[value.name])
        return [value.name, types(str(value.type)), category]

    packed: dict[str, Any] = {
        "graph": graph.name,
        "stage": view.stage,
        "metrics": METRICS,
        "phases": _PHASES,
        "categories": _CATEGORIES,
        "meanings": [MEANINGS[category] for category in _CATEGORIES],
        "saved": sum(saved_bytes(view).values()),
        "opened": opened,
        "inputs": [[i.value.name, types(str(i.value.type)), table(i.role)] for i in graph.inputs],
        "nodes": [
            [
                table(node.op),
                table(node.scope),
                _PHASES.index(phase),
                _CATEGORIES.index(category),
                [places[value.name] for value in node.inputs],
                [result(value) for value in node.outputs],
                [
                    table(text)
                    for name, value in node.attrs
                    for text in (name, value if isinstance(value, str) else format_attr(value))
                ],
            ]
            for node, phase, category in zip(graph.nodes, view.phases, view.categories, strict=True)
        ],
        "groups": [_pack_group(group, table) for group in groups],
        "broad": [places[name] for name in broad_values(view)],
        "outputs": [places[value.name] for value in graph.outputs],
        "aliases": [[places[alias.output], places[alias.donated]] for alias in graph.aliases],
    }
    if view.execution is not None:
        packed["execution"] = _pack_execution(view, table, places)
    packed["types"] = [[text, by_text[text].nbytes] for text in types.places]
    packed["table"] = list(table.places)
    return packed


def _pack_group(group: Group, table: _Table) -> Packed:
    children = [
        _pack_group(child, table) if isinstance(child, Group) else child for child in group.children
    ]
    return [_PHASES.index(group.phase), table(group.scope), children, group.links, group.rows]


def _pack_execution(view: View, table: _Table, places: dict[str, int]) -> dict[str, Any]:
    execution = view.execution
    assert execution is not None
    makers = {node.outputs[0].name: k for k, node in enumerate(view.graph.nodes)}

    def range_of(place: Range) -> Packed:
        return [table(place.buffer), place.offset, place.size]

    return {
        "arenas": execution.arenas,
        "launches": [
            [
                makers.get(launch.result, -1),
                table(launch.kernel),
                table(launch.constants),
                launch.groups,
                int(launch.barrier),
                [[table(access), *range_of(place)] for access, place in launch.bindings],
            ]
            for launch in execution.launches
        ],
        "spans": [
            [
                [places.get(name, name) for name in span.names],
                span.title,
                span.begin,
                span.end,
                _CATEGORIES.index(category_of_span(view, span)),
                *range_of(span.range),
            ]
            for span in execution.spans
        ],
        "places": [
            [places[name], *range_of(place)]
            for name, place in execution.places.items()
            if name in places
        ],
    }
