"""Graphviz: a cluster for every scope, an edge for every value that a node reads."""

from collections.abc import Iterator

from ..sizes import binary_size
from .groups import Group, group_nodes
from .style import COLOURS
from .view import View, short_name, title_of

_ROLE_COLOUR = "#eceff4"


def write_dot(view: View) -> bytes:
    """The graph in the DOT language; inputs of the graph are boxes of their own."""
    return "\n".join(_lines(view)).encode() + b"\n"


def _lines(view: View) -> Iterator[str]:
    graph = view.graph
    yield f"digraph {_quote(graph.name)} {{"
    yield f"  graph [label={_quote(f'{graph.name}: {view.stage}')} fontname=Helvetica];"
    yield "  node [shape=box style=filled fontname=Helvetica fontsize=10];"
    yield '  edge [fontname=Helvetica fontsize=8 color="#8792a4"];'
    for item in graph.inputs:
        label = f"{item.role} {item.value.name}\n{item.value.type}"
        name, colour = _quote(item.value.name), _quote(_ROLE_COLOUR)
        yield f"  {name} [label={_quote(label)} fillcolor={colour}];"
    for group in group_nodes(view):
        yield from _cluster(view, group, "  ")
    made = {v.name: node.outputs[0].name for node in graph.nodes for v in node.outputs}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            source = _quote(made.get(value.name, value.name))
            label = _quote(f"{value.type} {binary_size(value.type.nbytes)}")
            yield f"  {source} -> {_quote(node.outputs[0].name)} [label={label}];"
    yield "}"


def _cluster(view: View, group: Group, indent: str) -> Iterator[str]:
    yield f"{indent}subgraph {_quote(f'cluster_{group.key}')} {{"
    yield f"{indent}  label={_quote(f'{group.scope} ({group.phase})')};"
    for child in group.children:
        if isinstance(child, Group):
            yield from _cluster(view, child, f"{indent}  ")
        else:
            node = view.graph.nodes[child]
            types = ", ".join(str(value.type) for value in node.outputs)
            label = f"{title_of(node)}\n{short_name(node)}\n{types}"
            colour = _quote(f"{COLOURS[view.categories[child]]}55")
            name = _quote(node.outputs[0].name)
            yield f"{indent}  {name} [label={_quote(label)} fillcolor={colour}];"
    yield f"{indent}}}"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
