"""Several nodes as one, made by the pass `fuse` so that one kernel can serve them.

%y, %s = fused(%a, %b) {body="graph @fused {...}", pattern="elementwise"}

The body is the text of the graph of the nodes that it replaces, with their names and scopes: its
inputs are the operands, what it returns are the results. It is what the node means.
"""

from collections.abc import Container
from functools import lru_cache

from ..ir import Graph, Node, Value
from ..tensors import HostValue
from ..text import parse_graph
from ..types import GraphError, TensorType
from .draws import operand
from .expect import expect
from .record import Case, Cases, OpDef

FUSED = "fused"
"""Name of the op."""


@lru_cache(maxsize=8192)
def parse_body(text: str) -> Graph:
    """The graph of a body, verified.

    Raises:
        GraphError: the text is not a sound graph, takes an input's place or fuses again.
    """
    from ..verify import verify  # which needs the ops

    body = parse_graph(text)
    verify(body)
    expect(not body.aliases, "the body takes an input's place")
    expect(all(node.op != FUSED for node in body.nodes), "the body has a fused node in it")
    return body


def body_of(node: Node) -> Graph:
    """The body of a fused node, under the names that it was made with."""
    return parse_body(node.attributes["body"])


def expanded(node: Node, taken: Container[str] = frozenset()) -> tuple[Node, ...]:
    """The nodes that a fused node stands for, on its own operands and results.

    Args:
        node: of the op `fused`.
        taken: names that values in between must not have.
    """
    body = body_of(node)
    names = {i.value.name: v for i, v in zip(body.inputs, node.inputs, strict=True)}
    names |= {old.name: new for old, new in zip(body.outputs, node.outputs, strict=True)}

    def place(value: Value) -> Value:
        if value.name not in names:
            names[value.name] = Value(_free_name(value.name, taken), value.type)
        return names[value.name]

    return tuple(
        Node(
            inner.op,
            tuple(map(place, inner.inputs)),
            tuple(map(place, inner.outputs)),
            inner.attrs,
            inner.scope,
        )
        for inner in body.nodes
    )


def _free_name(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _fused_type(*operands: TensorType, pattern: str, body: str) -> tuple[TensorType, ...]:
    expect(bool(pattern), "no pattern is named")
    try:
        graph = parse_body(body)
    except GraphError as error:
        raise GraphError(f"the body is no graph: {error}") from None
    wanted = tuple(item.value.type for item in graph.inputs)
    expect(operands == wanted, f"the body takes {', '.join(map(str, wanted))}")
    return tuple(value.type for value in graph.outputs)


def _fused(*operands: HostValue, pattern: str, body: str) -> tuple[HostValue, ...]:
    from . import op_def  # this op is among them

    graph = parse_body(body)
    values = {i.value.name: x for i, x in zip(graph.inputs, operands, strict=True)}
    for node in graph.nodes:
        results = op_def(node.op).eval(*(values[v.name] for v in node.inputs), **node.attributes)
        results = results if isinstance(results, tuple) else (results,)
        values.update(zip((v.name for v in node.outputs), results, strict=True))
    return tuple(values[value.name] for value in graph.outputs)


_BODIES = (
    (
        "elementwise",
        """
        graph @fused {{
          input %a: f32[{rows},{width}]
          input %b: f32[{rows},{width}]
          %c: f32[{rows},{width}] = mul(%a, %b)
          %d: f32[{rows},{width}] = scale(%c) {{factor=0.5}}
          %e: f32[{rows},{width}] = sub(%d, %a)
          return %c, %e
        }}
        """,
    ),
    (
        "norm_quantize",
        """
        graph @fused {{
          input %x: f32[{rows},{width}]
          input %weight: f32[{width}]
          %normed: f32[{rows},{width}] = rms_norm(%x, %weight) {{eps=1e-05}}
          %codes: q8[{rows},{width}] = quantize(%normed)
          return %normed, %codes
        }}
        """,
    ),
)


def _fused_case(rows: int, width: int, kind: int) -> Case:
    pattern, template = _BODIES[kind]
    body = str(parse_graph(template.format(rows=rows, width=width)))
    operands = tuple(
        operand(str(item.value.type.dtype), *item.value.type.shape)
        for item in parse_body(body).inputs
    )
    return Case(operands, {"pattern": pattern, "body": body})


OPS = (
    OpDef(
        FUSED,
        _fused_type,
        _fused,
        Cases(
            _fused_case,
            ((1, 7), (1, 9), (0, len(_BODIES) - 1)),
            tuple(
                (rows, width, kind)
                for kind in range(len(_BODIES))
                for rows, width in ((1, 1), (5, 7), (64, 512))
            ),
        ),
        no_vjp="it is made after differentiation",
    ),
)
