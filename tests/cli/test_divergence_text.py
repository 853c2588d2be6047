"""What is said of a node that is wrong: values of every kind, and numbers that are none."""

import numpy as np
from bitgraph.backends.divergence import Divergence
from bitgraph.cli.divergence_text import describe
from bitgraph.graph.ir import Node, Value
from bitgraph.graph.tensors import HostValue, Quantized, Ternary
from bitgraph.graph.types import parse_type


def wrong(
    op: str, types: list[str], operands: list[HostValue], given: HostValue, wanted: HostValue
) -> Divergence:
    *inputs, output = (Value(f"v{k}", parse_type(text)) for k, text in enumerate(types))
    node = Node(op, tuple(inputs), (output,))
    return Divergence(4, node, tuple(operands), (given,), (wanted,), 0, 0.25, 1e-5)


def test_packed_operands_show_what_they_stand_for() -> None:
    codes = Quantized(np.array([[1, -4]], np.int8), np.array([[2]], np.float32))
    weight = Ternary.pack(np.array([[0, 1], [-1, 0], [0, 0]]), 0.5)
    given, wanted = (np.array([[1, 2, x]], np.float32) for x in (3, 4))
    types = ["q8[1,2]", "t2[3,2]", "f32[1,3]"]
    lines = list(
        describe(wrong("ternary_matmul", types, [codes, weight], given, wanted), 9, {"v0"})
    )
    assert lines == [
        "node 5 of 9:",
        "  %v2: f32[1,3] = ternary_matmul(%v0, %v1)",
        "  %v2 is off by 2.5e-01 of its largest magnitude, 1e-05 is allowed",
        "  largest error at [0,2]: 3 instead of 4",
        "    given from [0,0]:       1  2  3",
        "    wanted from [0,0]:      1  2  4",
        "  operand %v0: q8[1,2], largest -2 at [0,1], which only the second graph has",
        "  operand %v1: t2[3,2], largest 0.5 at [0,1]",
    ]


def test_a_nan_is_the_largest_error() -> None:
    x = np.array([1, np.nan, -np.inf, 2], np.float32)
    given = np.array([1, np.nan, np.nan, 9], np.float32)
    lines = list(describe(wrong("relu", ["f32[4]", "f32[4]"], [x], given, x), 5))
    assert lines[3] == "  largest error at [2]: nan instead of -inf"
    assert lines[-1] == "  operand %v0: f32[4], largest nan at [1], 2 not finite"


def test_a_scalar_has_nothing_beside_it() -> None:
    given, wanted = np.array(1, np.float32), np.array(2, np.float32)
    lines = list(describe(wrong("relu", ["f32[]", "f32[]"], [given], given, wanted), 5))
    assert lines[3:] == [
        "  largest error at []: 1 instead of 2",
        "  operand %v0: f32[], largest 1 at []",
    ]


def test_a_fused_node_shows_its_body() -> None:
    body = "graph @f {\n  input %a: f32[]\n  %b: f32[] = relu(%a)\n  return %b\n}\n"
    x, y = (Value(name, parse_type("f32[]")) for name in "xy")
    node = Node("fused", (x,), (y,), (("body", body), ("pattern", "one")), "mlp")
    one = np.array(1, np.float32)
    lines = list(describe(Divergence(0, node, (one,), (one,), (one,), 0, 1.0, 0.0), 1))
    assert lines[1] == '  %y: f32[] = fused(%x) {pattern="one"} @mlp'
    assert lines[2:7] == [f"    {line}" for line in body.splitlines()]
