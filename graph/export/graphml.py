"""GraphML, through networkx: what Gephi, yEd and other programs read."""

import networkx as nx

from ..text import format_attr
from .view import View


def write_graphml(view: View) -> bytes:
    """Nodes are ops, named by their first result, and inputs; an edge is a value that is read."""
    return "\n".join(nx.generate_graphml(to_multigraph(view))).encode() + b"\n"


def to_multigraph(view: View) -> "nx.MultiDiGraph[str]":
    """The graph for networkx; everything is in attributes of nodes and edges."""
    result: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=view.graph.name, stage=view.stage)
    for item in view.graph.inputs:
        value = item.value
        facts = {"type": str(value.type), "bytes": value.type.nbytes}
        result.add_node(value.name, kind=str(item.role), **facts)
    made = {v.name: node.outputs[0].name for node in view.graph.nodes for v in node.outputs}
    for node, phase, category in zip(view.graph.nodes, view.phases, view.categories, strict=True):
        attributes = ", ".join(f"{name}={format_attr(value)}" for name, value in node.attrs)
        result.add_node(
            node.outputs[0].name,
            kind="op",
            op=node.op,
            scope=node.scope,
            phase=str(phase),
            category=str(category),
            attributes=attributes,
            type=", ".join(str(v.type) for v in node.outputs),
            bytes=sum(v.type.nbytes for v in node.outputs),
            **_planned(view, node.outputs[0].name),
        )
        for value in dict.fromkeys(node.inputs):
            category_of_value = view.value_categories.get(value.name)
            result.add_edge(
                made.get(value.name, value.name),
                node.outputs[0].name,
                value=value.name,
                type=str(value.type),
                bytes=value.type.nbytes,
                category=str(category_of_value or "input"),
            )
    return result


def _planned(view: View, result: str) -> dict[str, str]:
    if view.execution is None:
        return {}
    kernels = [launch.kernel for launch in view.execution.launches if launch.result == result]
    place = view.execution.places.get(result)
    return {"kernels": ", ".join(kernels), "memory": str(place or "")}
