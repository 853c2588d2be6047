"""JSON: everything that is known of a graph, for programs of one's own."""

import json
from typing import Any

from ..analysis import users
from ..ir import Value
from .execution import Execution, Range
from .view import View


def write_json(view: View) -> bytes:
    """One object: inputs, nodes, outputs and aliases, and for a schedule its dispatches."""
    graph = view.graph
    readers = users(graph)
    places = {id(node): k for k, node in enumerate(graph.nodes)}

    def described(value: Value) -> dict[str, Any]:
        reading = [places[id(node)] for node in readers[value.name]]
        facts = {"name": value.name, "type": str(value.type), "bytes": value.type.nbytes}
        return {**facts, "users": reading}

    nodes = [
        {
            "op": node.op,
            "scope": node.scope,
            "phase": phase,
            "category": category,
            "inputs": [value.name for value in node.inputs],
            "outputs": [
                {**described(value), "category": view.value_categories[value.name]}
                for value in node.outputs
            ],
            "attributes": node.attributes,
        }
        for node, phase, category in zip(graph.nodes, view.phases, view.categories, strict=True)
    ]
    document: dict[str, Any] = {
        "graph": graph.name,
        "stage": view.stage,
        "inputs": [{**described(item.value), "role": item.role} for item in graph.inputs],
        "nodes": nodes,
        "outputs": [value.name for value in graph.outputs],
        "aliases": [[alias.output, alias.donated] for alias in graph.aliases],
    }
    if view.execution is not None:
        document["schedule"] = _schedule(view.execution)
    return json.dumps(document, indent=1).encode() + b"\n"


def _schedule(execution: Execution) -> dict[str, Any]:
    return {
        "arenas": [{"name": name, "bytes": size} for name, size in execution.arenas],
        "dispatches": [
            {
                "result": launch.result,
                "kernel": launch.kernel,
                "constants": launch.constants,
                "groups": launch.groups,
                "bindings": [
                    {"access": access, **_range(place)} for access, place in launch.bindings
                ],
                "barrier_before": launch.barrier,
            }
            for launch in execution.launches
        ],
        "spans": [
            {"names": span.names, **_range(span.range), "begin": span.begin, "end": span.end}
            for span in execution.spans
        ],
        "places": {name: _range(place) for name, place in execution.places.items()},
    }


def _range(place: Range) -> dict[str, Any]:
    return {"buffer": place.buffer, "offset": place.offset, "size": place.size}
