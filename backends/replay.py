"""Saves a node with what it was given and what came out, so that it can be run again."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..graph.errors import BitgraphError
from ..graph.ir import Graph
from ..graph.program import Backend
from ..graph.tensors import Array, HostValue, Quantized, Ternary
from ..graph.text import parse_graph
from ..graph.types import DType, TensorType
from ..graph.verify import verify
from .divergence import Divergence, node_graph
from .equivalence import relative_error
from .numpy.evaluate import evaluate

GRAPH = "node.txt"
"""The text of the node as a graph of its own."""

VALUES = "values.npz"
"""Its operands x0, x1, ..., and its results as ``given.NAME`` and ``wanted.NAME``."""


def saved(divergence: Divergence) -> tuple[str, bytes]:
    """The contents of the two files: the node's graph, and its values in NumPy's format."""
    graph = node_graph(divergence.node)
    names = [item.value.name for item in graph.inputs]
    values: dict[str, HostValue | None] = dict(zip(names, divergence.operands, strict=True))
    for side, results in (("given", divergence.given), ("wanted", divergence.wanted)):
        values |= {f"{side}.{v.name}": r for v, r in zip(graph.outputs, results, strict=True)}
    arrays = {k: array for name, v in values.items() for k, array in _arrays(name, v)}
    file = io.BytesIO()
    save: Any = np.savez_compressed
    save(file, **arrays)
    return str(graph), file.getvalue()


def load(folder: Path) -> tuple[Graph, dict[str, HostValue]]:
    """A saved node's graph and values.

    Raises:
        BitgraphError: the folder does not hold a saved node.
    """
    try:
        graph = parse_graph((folder / GRAPH).read_text())
        verify(graph)
        with np.load(folder / VALUES) as file:
            arrays = dict(file)
        types = [(i.value.name, i.value.type) for i in graph.inputs]
        types += [
            (f"{side}.{value.name}", value.type)
            for value in graph.outputs
            for side in ("given", "wanted")
        ]
        found = {name: _value(type, name, arrays) for name, type in types}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BitgraphError(
            f"{folder} does not hold a saved node ({error}); name a folder that --dump wrote"
        ) from None
    return graph, {name: value for name, value in found.items() if value is not None}


def replay(folder: Path | str, backend: Backend | None = None) -> dict[str, float]:
    """Run a saved node once more, and say how far each result is from the one wanted.

    Args:
        folder: that `saved` was written into.
        backend: where to run it; the op's own NumPy meaning if None.

    Raises:
        BitgraphError: the folder does not hold a saved node.
    """
    graph, values = load(Path(folder))
    operands = {item.value.name: values[item.value.name] for item in graph.inputs}
    results: Mapping[str, HostValue]
    if backend is None:
        results = evaluate(graph, operands)
    else:
        backend.load(operands)
        results = backend.compile(graph).run({})
    return {
        name: relative_error(result, values[f"wanted.{name}"])
        for name, result in results.items()
        if f"wanted.{name}" in values
    }


def _arrays(name: str, value: HostValue | None) -> Iterable[tuple[str, Array]]:
    if isinstance(value, Ternary):
        return [(f"{name}.codes", value.codes()), (f"{name}.scale", np.asarray(value.scale))]
    if isinstance(value, Quantized):
        return [(f"{name}.codes", value.codes), (f"{name}.scale", value.scale)]
    return [] if value is None else [(name, value)]


def _value(type: TensorType, name: str, arrays: Mapping[str, Array]) -> HostValue | None:
    if name.startswith("wanted.") and not {name, f"{name}.codes"} & set(arrays):
        return None
    if type.dtype is DType.T2:
        return Ternary.pack(arrays[f"{name}.codes"], float(arrays[f"{name}.scale"]))
    if type.dtype is DType.Q8:
        return Quantized(arrays[f"{name}.codes"], arrays[f"{name}.scale"])
    return arrays[name]
