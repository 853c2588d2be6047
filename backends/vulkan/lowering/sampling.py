"""Rules and meanings of the kernels for the family `sampling`: choosing the next token."""

from collections.abc import Mapping

import numpy as np

from ....graph.ir import Node
from ....graph.ops import op_def
from ....graph.tensors import HostValue
from ....graph.types import tensor
from ..limits import Limits
from .calls import Lowering, Meaning, Rule, groups_for
from .copies import start_from
from .meanings import arrays, of_op

_CHUNK = 2048
"""Logits of which a workgroup finds the largest."""
_DIGITS = (11, 8)
"""Bits of a digit of the search; more take more shared memory and fewer passes."""
_THREADS = 512
_LONGEST_WORD = 16


def _sample(lowering: Lowering, node: Node) -> None:
    names = ("logits", "temperature", "top_k", "top_p", "reach", "seed", "positions")
    operands = dict(zip(names, node.inputs, strict=True))
    rows, vocabulary = node.inputs[0].type.shape
    chunks = -(-vocabulary // _CHUNK)
    sizes = {"ROWS": rows, "VOCABULARY": vocabulary, "CHUNKS": chunks}
    tops = lowering.scratch(tensor("f32", rows, chunks))
    ids = lowering.scratch(tensor("u32", rows, chunks))
    found = {"tops": tops, "ids": ids}
    constants = {**sizes, "CHUNK": _CHUNK}
    lowering.call("sample_tops", (chunks, rows, 1), constants, logits=node.inputs[0], **found)
    constants = {
        **sizes,
        "DIGIT": _digit(lowering.limits),
        # The sum of all probabilities, of which none is above 1, stays below 2^32.
        "WORD": min(32 - vocabulary.bit_length(), _LONGEST_WORD),
    }
    lowering.call("sample", (rows, 1, 1), constants, **operands, **found, chosen=node.outputs[0])


def _penalize(lowering: Lowering, node: Node) -> None:
    logits, seen, penalty, inverse = node.inputs
    rows, vocabulary = logits.type.shape
    operands = {"logits": logits, "seen": seen, "penalty": penalty, "inverse": inverse}
    constants = {"ROWS": rows, "VOCABULARY": vocabulary}
    groups = groups_for(rows * vocabulary, 256, lowering.limits)
    lowering.call("penalize", groups, constants, **operands, y=node.outputs[0])


def _until_stop(lowering: Lowering, node: Node) -> None:
    ids, stops, stopped = node.inputs
    following, new_stopped = node.outputs
    start_from(lowering, stopped, new_stopped)
    rows = ids.type.size
    constants = {"ROWS": rows, "STOPS": stops.type.size}
    operands = {"ids": ids, "stops": stops, "next": following, "stopped": new_stopped}
    lowering.call("until_stop", groups_for(rows, 32, lowering.limits), constants, **operands)


def _digit(limits: Limits) -> int:
    for bits in _DIGITS:
        if 8 * 2**bits + 16 * _THREADS + 16 <= limits.shared_memory:
            return bits
    return _DIGITS[-1]


def _tops_meaning(constants: Mapping[str, int | float], operands: Mapping[str, HostValue]) -> None:
    logits, tops, ids = arrays(operands, "logits", "tops", "ids")
    for chunk in range(tops.shape[1]):
        begin = chunk * int(constants["CHUNK"])
        some = logits[:, begin : begin + int(constants["CHUNK"])]
        tops[:, chunk], ids[:, chunk] = some.max(axis=1), begin + some.argmax(axis=1)


def _sample_meaning(
    constants: Mapping[str, int | float], operands: Mapping[str, HostValue]
) -> None:
    logits, tops, ids, chosen = arrays(operands, "logits", "tops", "ids", "chosen")
    scalars = arrays(operands, "temperature", "top_k", "top_p", "reach", "seed", "positions")
    if scalars[0] <= 0:
        chosen[...] = ids[np.arange(len(tops)), tops.argmax(axis=1)]
    else:
        chosen[...] = op_def("sample").eval(logits, *scalars)


RULES: dict[str, Rule] = {"sample": _sample, "penalize": _penalize, "until_stop": _until_stop}
MEANINGS: dict[str, Meaning] = dict(
    [
        ("sample_tops", _tops_meaning),
        ("sample", _sample_meaning),
        of_op("penalize", "penalize"),
        of_op("until_stop", "until_stop"),
    ]
)
