"""How the NumPy backend cuts graphs into stages, on random graphs."""

from itertools import chain

import numpy as np
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.numpy.stages import Sweep, Tasks, plan_stages, sweep_rows
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Node, Role, Value
from bitgraph.graph.ops import op_def
from bitgraph.graph.ops.draws import normal
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import DType, tensor
from bitgraph.graph.verify import verify
from graphs import read, training_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_close

ROWS, OTHER_ROWS, WIDTH = 130, 3, 4


class Grower:
    """Adds random ops to a graph: by rows, across rows, and between two numbers of rows."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.builder = GraphBuilder("random")
        self.values: list[Value] = []

    def input(self, name: str, *shape: int, dtype: str = "f32") -> Value:
        value = self.builder.add_input(name, tensor(dtype, *shape), Role.INPUT)
        self.values.append(value)
        return value

    def of(self, *shape: int) -> Value:
        fitting = [v for v in self.values if v.type == tensor("f32", *shape)]
        return self.draw(st.sampled_from(fitting))

    def add(self, kind: str) -> None:
        b, rows = self.builder, self.draw(st.sampled_from([ROWS, OTHER_ROWS]))
        x, y = self.of(rows, WIDTH), self.of(rows, WIDTH)
        made: tuple[Value, ...]
        if kind == "pointwise":
            made = (b.op(self.draw(st.sampled_from(["add", "sub"])), x, y),)
        elif kind == "squash":
            made = (b.op("rms_norm", x, self.of(WIDTH), eps=1e-5),)
        elif kind == "product":  # rows times a small matrix that a task may have made
            made = (b.op("matmul", x, self.of(WIDTH, WIDTH), transpose_b=True),)
        elif kind == "contract":
            made = (b.op("contract_rows", x, y),)
            made += (b.op("scale", made[0], factor=0.01),)
        elif kind == "scalar":
            made = (b.op("mul_scalar", x, b.op("scale", b.op("dot", x, y), factor=0.001)),)
        elif kind == "gather":
            made = (b.op("gather_rows", x, self.ids),)
        elif kind == "quantize":
            made = (b.op("ternary_matmul", b.op("quantize", x), self.ternary),)
        else:
            heads = b.op("reshape", self.of(ROWS, WIDTH), row=(2, 2))
            out, lse = b.ops("attention", heads, heads, heads, self.first, self.last)
            made = (b.op("reshape", out, row=(WIDTH,)), lse)
        self.values += made

    def graph(self) -> Graph:
        self.input("x", ROWS, WIDTH)
        self.input("s", OTHER_ROWS, WIDTH)
        self.input("w", WIDTH)
        self.input("m", WIDTH, WIDTH)
        self.ids = self.input("ids", OTHER_ROWS, dtype="i32")
        self.first = self.input("first", ROWS, dtype="i32")
        self.last = self.input("last", ROWS, dtype="i32")
        self.ternary = self.builder.add_input("t", tensor("t2", WIDTH, WIDTH), Role.WEIGHT)
        kinds = [
            "pointwise",
            "squash",
            "product",
            "contract",
            "scalar",
            "gather",
            "quantize",
            "mix",
        ]
        for kind in self.draw(st.lists(st.sampled_from(kinds), max_size=14)):
            self.add(kind)
        made = [v for node in self.builder.nodes for v in node.outputs if v.type.dtype != "q8"]
        chosen = st.lists(st.sampled_from(made), max_size=4, unique=True) if made else st.just([])
        return self.builder.finish(tuple(self.draw(chosen)))


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    graph = Grower(draw).graph()
    verify(graph)
    return graph


def check_plan(graph: Graph) -> None:
    stages = plan_stages(graph)
    planned = list(chain.from_iterable(stage.nodes for stage in stages))
    assert sorted(map(id, planned)) == sorted(map(id, graph.nodes))
    known = {item.value.name for item in graph.inputs}
    for stage in stages:
        assert stage.nodes
        if isinstance(stage, Sweep):
            check_sweep(stage, known)
        else:
            check_tasks(stage, known)
        known -= set(stage.dying)
    returned = {value.name for value in graph.outputs}
    inputs = {item.value.name for item in graph.inputs}
    assert known == returned | inputs


def check_sweep(stage: Sweep, known: set[str]) -> None:
    """Each node reads what exists, whole where it needs all rows; what is kept is made here."""
    local: set[str] = set()
    for node in stage.nodes:
        assert sweep_rows(node) == stage.rows
        split = op_def(node.op).split
        assert split is not None
        for value, axis in zip(node.inputs, split.inputs, strict=True):
            assert value.name in (known if axis is None else known | local)
        local |= {value.name for value in node.outputs}
    assert stage.kept <= local
    assert set(stage.dying) <= known
    known |= stage.kept


def check_tasks(stage: Tasks, known: set[str]) -> None:
    """No node reads what another of the stage makes."""
    made = {value.name for node in stage.nodes for value in node.outputs}
    for node in stage.nodes:
        assert {value.name for value in node.inputs} <= known
    assert set(stage.dying) <= known | made
    known |= made


@settings(max_examples=150, derandomize=True, deadline=None)
@given(random_graphs())
def test_every_node_is_planned_once_behind_what_it_reads(graph: Graph) -> None:
    check_plan(graph)


def test_the_plan_of_a_training_step() -> None:
    graph = training_graph(300)
    check_plan(graph)
    stages = plan_stages(graph)
    swept = sum(len(stage.nodes) for stage in stages if isinstance(stage, Sweep))
    assert swept > 0.6 * len(graph.nodes)
    assert len(stages) < 0.2 * len(graph.nodes)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(random_graphs(), st.integers(1, 3))
def test_random_graphs_give_what_evaluate_gives(graph: Graph, threads: int) -> None:
    rng = np.random.default_rng(0)
    values = {item.value.name: drawn(item.value, rng) for item in graph.inputs}
    values["first"] = np.where(np.arange(ROWS) < 50, 0, 50).astype(np.int32)
    values["last"] = np.arange(ROWS, dtype=np.int32)
    backend = NumpyBackend(threads=threads)
    backend.load({"t": values["t"]})
    inputs = {v.name: np.asarray(values[v.name]) for v in graph.inputs_of(Role.INPUT)}
    found = backend.compile(graph).run(inputs)
    wanted = evaluate(graph, values)
    assert list(found) == [value.name for value in graph.outputs]
    for name, value in wanted.items():
        assert_close(found[name], value, 1e-3)


def drawn(value: Value, rng: np.random.Generator) -> HostValue:
    if value.type.dtype is DType.I32:
        return rng.integers(0, OTHER_ROWS, value.type.shape).astype(np.int32)
    return normal(rng, value.type)


def plan_of(text: str) -> list[tuple[str, list[str]]]:
    return [
        ("sweep" if isinstance(stage, Sweep) else "tasks", [node.op for node in stage.nodes])
        for stage in plan_stages(read(text))
    ]


def test_a_run_of_row_wise_nodes_is_one_sweep_and_keeps_little() -> None:
    text = """
        graph @g {
          input %x: f32[300,8]
          weight %w: t2[6,8]
          weight %n: f32[8]
          %y: f32[300,8] = rms_norm(%x, %n) {eps=1e-05}
          %q: q8[300,8] = quantize(%y)
          %z: f32[300,6] = ternary_matmul(%q, %w)
          return %z
        }
    """
    (stage,) = plan_stages(read(text))
    assert isinstance(stage, Sweep)
    assert stage.rows == 300
    assert stage.kept == {"z"}
    assert stage.dying == ()


def test_a_gradient_of_a_weight_does_not_end_the_sweep_around_it() -> None:
    text = """
        graph @g {
          input %x: f32[300,8]
          %a: f32[300,8] = relu(%x)
          %w: f32[8,8] = contract_rows(%a, %x)
          %b: f32[300,8] = silu(%a)
          %v: f32[8,8] = contract_rows(%b, %x)
          %c: f32[300,8] = matmul(%b, %w) {transpose_b=false}
          return %c, %v
        }
    """
    assert plan_of(text) == [
        ("sweep", ["relu", "silu"]),
        ("tasks", ["contract_rows", "contract_rows"]),
        ("sweep", ["matmul"]),
    ]


def test_a_sweep_ends_before_a_node_that_needs_all_of_its_rows() -> None:
    text = """
        graph @g {
          input %x: f32[300,8]
          input %y: f32[8,8]
          %a: f32[300,8] = relu(%x)
          %b: f32[8,8] = relu(%y)
          %c: f32[8,8] = add(%b, %y)
          %d: f32[8,8] = matmul(%b, %c) {transpose_b=false}
          return %a, %d
        }
    """
    assert plan_of(text) == [
        ("sweep", ["relu"]),
        ("sweep", ["relu", "add"]),
        ("sweep", ["matmul"]),
    ]


def node(op: str, *types: str, **attrs: object) -> Node:
    b = GraphBuilder("g")
    inputs = []
    for k, text in enumerate(types):
        dtype, _, shape = text[:-1].partition("[")
        sizes = [int(n) for n in shape.split(",")] if shape else []
        inputs.append(b.add_input(f"x{k}", tensor(dtype, *sizes), Role.INPUT))
    b.ops(op, *inputs, **attrs)  # type: ignore[arg-type]
    return b.nodes[0]


def test_which_nodes_are_cut_by_rows() -> None:
    assert sweep_rows(node("add", "f32[5,2]", "f32[5,2]")) == 5
    assert sweep_rows(node("add", "f32[]", "f32[]")) is None
    assert sweep_rows(node("matmul", "f32[5,2]", "f32[9,2]", transpose_b=True)) == 5
    assert sweep_rows(node("contract_rows", "f32[5,2]", "f32[5,3]")) is None
    assert sweep_rows(node("scatter_add_rows", "f32[5,2]", "i32[5]", rows=3)) is None
    assert sweep_rows(node("gather_rows", "f32[9,2]", "i32[5]")) == 5
