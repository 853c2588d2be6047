"""Rules and meanings of the kernels for the family `embedding`.

Tables larger than the device can bind are served in parts, each by a call of its own that skips the
rows of the others.
"""

from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node
from ....graph.tensors import Array, HostValue
from .calls import Lowering, Meaning, Rule, groups_for, reducing_workgroup, row_ranges, rows_of
from .copies import start_from
from .meanings import arrays, of_op


def _gather_rows(lowering: Lowering, node: Node) -> None:
    table, ids = node.inputs
    count, columns = ids.type.size, table.type.shape[1]
    groups = groups_for(count, 1, lowering.limits)
    for first, rows in row_ranges(lowering.limits, table):
        constants = {"TABLE_ROWS": rows, "COLUMNS": columns, "COUNT": count, "FIRST": first}
        kernel, some = f"gather_rows_{table.type.dtype}", rows_of(table, first, rows)
        lowering.call(kernel, groups, constants, table=some, ids=ids, y=node.outputs[0])


def _scatter_add_rows(lowering: Lowering, node: Node) -> None:
    x, ids = node.inputs
    (table,) = node.outputs
    count, columns = x.type.shape
    sizes = {"COLUMNS": columns, "COUNT": count}
    workgroup = reducing_workgroup(max(count, columns), lowering.limits)
    for first, rows in row_ranges(lowering.limits, table):
        constants = {**sizes, "TABLE_ROWS": rows, "FIRST": first, "WORKGROUP": workgroup}
        groups = groups_for(rows, 1, lowering.limits)
        some = rows_of(table, first, rows)
        lowering.call("scatter_add_rows", groups, constants, x=x, ids=ids, t=some)


def _write_rows(lowering: Lowering, node: Node) -> None:
    old, x, slots = node.inputs
    (cache,) = node.outputs
    start_from(lowering, old, cache)
    count, columns = slots.type.size, cache.type.size // cache.type.shape[0]
    sizes = {"COLUMNS": columns, "COUNT": count}
    workgroup = reducing_workgroup(max(count, columns), lowering.limits)
    groups = groups_for(count, 1, lowering.limits)
    for first, rows in row_ranges(lowering.limits, cache):
        constants = {**sizes, "CACHE_ROWS": rows, "FIRST": first, "WORKGROUP": workgroup}
        some = rows_of(cache, first, rows)
        lowering.call("write_rows", groups, constants, cache=some, x=x, slots=slots)


def _inside(ids: Array, table: Array, constants: Mapping[str, int | float]) -> tuple[Array, Array]:
    """Which ids are rows of this part of a table, and those rows."""
    rows = ids - int(constants["FIRST"])
    inside = (rows >= 0) & (rows < len(table))
    return inside, rows[inside]


def _gather_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    table, ids, y = arrays(operands, "table", "ids", "y")
    inside, rows = _inside(ids, table, constants)
    y[inside] = table[rows]


def _scatter_add_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    x, ids, t = arrays(operands, "x", "ids", "t")
    inside, rows = _inside(ids, t, constants)
    t[...] = 0
    np.add.at(t, rows, x[inside])


def _write_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    cache, x, slots = arrays(operands, "cache", "x", "slots")
    inside, rows = _inside(slots, cache, constants)
    cache[rows] = x[inside]


def _add_ids(lowering: Lowering, node: Node) -> None:
    (x,), (y,) = node.inputs, node.outputs
    constants = {"COUNT": x.type.size, "BY": node.attributes["by"]}
    lowering.call("add_ids", groups_for(x.type.size, 256, lowering.limits), constants, x=x, y=y)


RULES: dict[str, Rule] = {
    "add_ids": _add_ids,
    "gather_rows": _gather_rows,
    "scatter_add_rows": _scatter_add_rows,
    "write_rows": _write_rows,
}
MEANINGS: dict[str, Meaning] = {
    **dict([of_op("add_ids", "add_ids", {"by": "BY"})]),
    "gather_rows_f32": _gather_meaning,
    "gather_rows_f16": _gather_meaning,
    "scatter_add_rows": _scatter_add_meaning,
    "write_rows": _write_meaning,
}
