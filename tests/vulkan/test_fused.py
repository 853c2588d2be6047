"""Fused nodes on Vulkan: generated kernels against the nodes that they replace."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from bitgraph.backends.equivalence import TOLERANCES
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.chain_source import chain_source
from bitgraph.backends.vulkan.chains import Chain, Step, parse_chain
from bitgraph.backends.vulkan.kernels import kernel
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.lowering import RULES, lower_calls
from bitgraph.backends.vulkan.lowering.calls import fused_rule
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Alias, Graph, Input, Node, Role, Value
from bitgraph.graph.ops import FAMILIES
from bitgraph.graph.ops.fused import FUSED, body_of
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.rewrite import expand_fused
from bitgraph.graph.tensors import HostValue, Quantized
from bitgraph.graph.types import tensor
from bitgraph.graph.verify import verify
from bitgraph.models.bitnet.forward import decode_graph, loss_graph
from bitgraph.models.data.batching import TokenBatch
from bitgraph.passes.checkpoint.checkpoint import Checkpoint
from bitgraph.passes.checkpoint.layers import find_layers
from bitgraph.passes.checkpoint.rewrite import rematerialize
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.fuse.group import fused_node
from bitgraph.passes.fuse.patterns import ELEMENTWISE, ROW_PATTERNS
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from graphs import TRAINING, read
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_close, assert_same_bits, fixed_cases, one_op_graph
from tiny_model import CONFIG, batch_values, model_values, random_batch, random_values
from vulkan_cases import FOLDED, RUNS, SPLIT, run_on_device, run_shuffled, values_of

Run: TypeAlias = Callable[..., dict[str, HostValue]]

PATTERNS = (*ROW_PATTERNS, ELEMENTWISE)
SUMS = 1e-5
"""Beside the largest element: sums of a row in another order than NumPy's."""


def assert_nearly(got: dict[str, HostValue], want: dict[str, HostValue], tolerance: float) -> None:
    """Close; of the codes a few may round the other way."""
    for name, value in want.items():
        other = got[name]
        if isinstance(value, Quantized):
            assert isinstance(other, Quantized)
            assert_close(other.scale, value.scale, tolerance)
            off = np.abs(other.codes.astype(int) - value.codes)
            assert off.max(initial=0) <= 1
            assert np.mean(off) < 1e-3 or off.sum() <= 1
        else:
            assert_close(other, value, tolerance, floor=1e-3)


@pytest.mark.parametrize("limits", [Limits(), FOLDED, SPLIT], ids=["large", "folded", "split"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(FAMILIES["fused"]))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    if limits is SPLIT and case.attrs["pattern"] != "elementwise":
        limits = FOLDED  # as rms_norm is: what is a row to a workgroup is bound as a whole
    graph = one_op_graph(op, case)
    values = values_of(graph, case)
    assert_nearly(run(graph, values, limits), evaluate(graph, values), SUMS)


# Every pattern, as it is found in models


def normed_behind_gates(graph: Graph) -> set[str]:
    """Names of what gradients of gates read, and of the norm in front of them."""
    names: set[str] = set()
    for layer in find_layers(graph):
        free = {layer.nodes[k].outputs[0] for k in layer.free}
        names |= {value.name for value in free}
        norms = (n for n in layer.nodes if n.op == "rms_norm" and n.inputs[0] in free)
        names |= {node.outputs[0].name for node in norms}
    return names


def found_nodes() -> dict[str, Node]:
    """The first fused node of every pattern in graphs of a tiny model with either activation."""
    nodes: dict[str, Node] = {}
    for act in ("relu2", "silu"):
        config = replace(CONFIG, hidden_act=act)
        step = PassManager(parse_pipeline(TRAINING)).run(loss_graph(config, 6))
        normed = rematerialize(step, normed_behind_gates(step))
        for graph in (step, Checkpoint()(step), normed, decode_graph(config, 32)):
            for pattern in PATTERNS:
                for node in Fuse(only=(pattern.name,))(graph).nodes:
                    if node.op == FUSED:
                        shape = f"{len(node.inputs)}-{len(node.outputs)}"
                        nodes.setdefault(f"{pattern.name}-{act}-{shape}", node)
    return nodes


FOUND = found_nodes()


def lone(node: Node, rows: int, width: int) -> Graph:
    """A graph of one fused node alone, its body in another size."""
    body = body_of(node)
    old = next(v.type.shape for v in body.outputs)

    def resized(value: Value) -> Value:
        shape = value.type.shape
        new = {old: (rows, width), old[1:]: (width,)}.get(shape, shape)
        return replace(value, type=value.type.with_shape(new))

    nodes = tuple(
        replace(n, inputs=tuple(map(resized, n.inputs)), outputs=tuple(map(resized, n.outputs)))
        for n in body.nodes
    )
    fused = fused_node(node.attributes["pattern"], nodes, tuple(map(resized, body.outputs)))
    inputs = tuple(Input(value, Role.INPUT) for value in fused.inputs)
    graph = Graph("lone", inputs, (fused,), fused.outputs)
    verify(graph)
    return graph


def drawn(graph: Graph, seed: int = 0) -> dict[str, HostValue]:
    rng = np.random.default_rng(seed)
    return {
        i.value.name: rng.standard_normal(i.value.type.shape).astype(np.float32)
        for i in graph.inputs
    }


def test_every_pattern_is_found_and_has_a_rule() -> None:
    assert {name.split("-")[0] for name in FOUND} == {pattern.name for pattern in PATTERNS}
    assert all(fused_rule(pattern.name) in RULES for pattern in PATTERNS)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", FOUND)
def test_a_pattern_is_one_dispatch_and_right(name: str, run: Run) -> None:
    for rows, width in ((1, 1), (5, 7), (3, 640)):
        graph = lone(FOUND[name], rows, width)
        values = drawn(graph)
        cancels = width == 1 and "norm_grad" in name  # a row of one column: what is left is noise
        tolerance = TOLERANCES["rms_norm_grad"] if cancels else SUMS
        assert_nearly(run(graph, values), evaluate(graph, values), tolerance)
    assert len(lower_calls(graph, Limits()).calls) == 1


@pytest.mark.parametrize("name", FOUND)
def test_a_generated_kernel_gives_the_bits_of_the_kernels_that_it_replaces(name: str) -> None:
    graph = lone(FOUND[name], 4, 6912 if "gate" in name else 2560)
    values = drawn(graph)
    fused, apart = run_on_device(graph, values), run_on_device(expand_fused(graph), values)
    for name_, value in apart.items():
        assert_same_bits(fused[name_], value)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", FOUND)
def test_what_is_not_finite_is_not_hidden(name: str, bad: float, run: Run) -> None:
    graph = lone(FOUND[name], 3, 12)
    values = drawn(graph)
    for item in graph.inputs:
        x = np.array(values[item.value.name])
        if x.ndim == 2:
            x[1, 7] = bad
            values[item.value.name] = x
    with np.errstate(invalid="ignore"):
        want = evaluate(graph, values)
    got = run(graph, values)
    for key, value in want.items():
        if isinstance(value, Quantized):
            value, got[key] = value.scale, got[key].scale  # type: ignore[union-attr]
        np.testing.assert_array_equal(np.isnan(got[key]), np.isnan(value))  # type: ignore[arg-type]


def test_rows_that_do_not_fit_are_computed_apart() -> None:
    graph = lone(FOUND["norm_quantize-relu2-2-2"], 2, 40000)
    values = drawn(graph)
    calls = lower_calls(graph, Limits()).calls
    assert [call.kernel for call in calls] == ["rms_norm", "quantize"]
    assert_nearly(run_shuffled(graph, values), evaluate(graph, values), SUMS)


@pytest.mark.parametrize("run", RUNS)
def test_a_result_in_the_place_of_a_state_is_computed_apart(run: Run) -> None:
    graph = read(
        """
        graph @g {
          state %s: f32[64]
          input %x: f32[64]
          %a: f32[64] = mul(%s, %x)
          %s.new: f32[64] = scale(%a) {factor=2.0}
          return %s.new -> %s
        }
        """
    )
    fused = Fuse()(graph)
    assert [node.op for node in fused.nodes] == [FUSED]
    assert fused.aliases == (Alias("s.new", "s"),)
    values = drawn(graph)
    assert_nearly(run(fused, values), evaluate(graph, values), 0.0)


# Whole models


def step_values(graph: Graph, batch: TokenBatch) -> dict[str, HostValue]:
    roles = (Role.PARAM, Role.STATE)
    values = {**model_values(), **random_values(graph, roles), **batch_values(batch)}
    values |= {"lr": np.array(1e-2, np.float32), "step": np.array(3, np.int32)}
    return {i.value.name: values[i.value.name] for i in graph.inputs}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("act", ["relu2", "silu"])
def test_a_fused_training_step_is_the_plain_one(act: str, run: Run) -> None:
    batch = random_batch([7, 5], multiple=4)
    loss = loss_graph(replace(CONFIG, hidden_act=act), batch.tokens.size)
    graph = PassManager(parse_pipeline(TRAINING)).run(loss)
    values = step_values(graph, batch)
    fused = Fuse()(graph)
    assert len(lower_calls(fused, Limits()).calls) < 0.9 * len(lower_calls(graph, Limits()).calls)
    plain, got = run(graph, values), run(fused, values)
    assert_nearly(got, plain, 1e-5)
    assert_nearly(got, evaluate(graph, values), 1e-4)


def test_numpy_runs_the_nodes_that_fused_ones_stand_for() -> None:
    batch = random_batch([7, 5], multiple=4)
    graph = PassManager(parse_pipeline(TRAINING)).run(loss_graph(CONFIG, batch.tokens.size))
    results = []
    for step in (graph, Fuse()(graph)):
        backend = NumpyBackend()
        values = step_values(graph, batch)
        persistent = {i.value.name for i in graph.inputs if i.role is not Role.INPUT}
        backend.load({name: values[name] for name in persistent})
        inputs = {name: np.asarray(values[name]) for name in values.keys() - persistent}
        outputs = backend.compile(step).run(inputs)
        params = {v.name: backend.read(v.name) for v in graph.inputs_of(Role.PARAM)}
        results.append({**outputs, **params})
    for name, value in results[0].items():
        assert_same_bits(results[1][name], value)


# Chains at random


ELEMENTWISE = ("add", "sub", "mul", "scale", "mul_scalar", "relu", "squared_relu", "full_like")
ROW_WISE = ("rms_norm", "rms_norm_grad", "quantize")


def random_graph(draw: st.DataObject, ops: tuple[str, ...], rows: int, width: int) -> Graph:
    """A fused node of a few random steps that gives every value that is not read, and some more."""
    b = GraphBuilder("g")
    types = (tensor("f32", rows, width), tensor("f32", width), tensor("f32"))
    x, weight, s = (b.add_input(n, t, Role.INPUT) for n, t in zip("xws", types, strict=True))
    values = [x, b.add_input("y", x.type, Role.INPUT)]
    for _ in range(draw.draw(st.integers(2, 6))):
        op = draw.draw(st.sampled_from(ops))
        one, two = (draw.draw(st.sampled_from(values)) for _ in range(2))
        operands: dict[str, tuple[Value, ...]] = {
            "add": (one, two), "sub": (one, two), "mul": (one, two), "mul_scalar": (one, s),
            "rms_norm": (one, weight), "rms_norm_grad": (one, two, weight),
        }  # fmt: skip
        attrs = {"scale": {"factor": -0.75}, "full_like": {"value": 0.5}}
        attrs |= {"rms_norm": {"eps": 1e-5}, "rms_norm_grad": {"eps": 1e-5}}
        made = b.op(op, *operands.get(op, (one,)), **attrs.get(op, {}))
        if op != "quantize":
            values.append(made)
    read_inside = {value.name for node in b.nodes for value in node.inputs}
    made_all = [value for node in b.nodes for value in node.outputs]
    results = tuple(v for v in made_all if v.name not in read_inside or draw.draw(st.booleans()))
    row_wise = any(node.op in ROW_WISE for node in b.nodes)
    fused = fused_node("norm_quantize" if row_wise else "elementwise", tuple(b.nodes), results)
    inputs = tuple(i for i in b.inputs if i.value in fused.inputs)
    return Graph("g", inputs, (fused,), results)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("ops", [ELEMENTWISE, ELEMENTWISE + ROW_WISE], ids=["flat", "rows"])
def test_random_chains(ops: tuple[str, ...], run: Run) -> None:
    @settings(max_examples=12, derandomize=True, deadline=None)
    @given(st.data(), st.integers(1, 4), st.sampled_from([1, 3, 8, 33, 260]))
    def check(draw: st.DataObject, rows: int, width: int) -> None:
        graph = random_graph(draw, ops, rows, width)
        verify(graph)
        values = drawn(graph)
        got, want = run(graph, values), evaluate(graph, values)
        if ops is ELEMENTWISE:
            assert_nearly(got, want, 0.0)
            return
        plain = {k: v for k, v in want.items() if v.shape and not isinstance(v, Quantized)}
        for key, value in plain.items():  # what follows a norm's gradient may cancel
            assert_close(got[key], value, 1e-3, floor=1.0)

    check()


def test_long_chains_keep_their_values_apart() -> None:
    """Value 14 is not the four-element view of value 1."""
    b = GraphBuilder("g")
    inputs = [b.add_input(f"x{k}", tensor("f32", 2, 8), Role.INPUT) for k in range(5)]
    total = inputs[0]
    for k in range(11):
        total = b.op("add", total, inputs[k % 5])
    results = tuple(node.outputs[0] for node in b.nodes[-3:])
    graph = Graph(
        "g", tuple(b.inputs), (fused_node("elementwise", tuple(b.nodes), results),), results
    )
    values = drawn(graph)
    assert_nearly(run_on_device(graph, values), evaluate(graph, values), 0.0)


def test_a_name_is_a_program() -> None:
    steps = (Step("add", (0, 1)), Step("rms_norm_grad", (3, 0, 2)), Step("full_like", (4,)))
    chain = Chain("mmv", steps, (4, 5))
    assert chain.name == "chain_mmv__add_0_1__rms_norm_grad_3_0_2__full_like_4__4_5"
    assert parse_chain(chain.name) == chain
    record = kernel(chain.name)
    assert [p.name for p in record.parameters] == ["v0", "v1", "v2", "v4", "v5"]
    assert record.constants == ("ROWS", "COLUMNS", "WORKGROUP", "EPS_4", "VALUE_5")


@pytest.mark.parametrize(
    "name",
    [
        "chain_mm__pow_0_1__2",
        "chain_mm__add_0_2__2",
        "chain_mm__add__2",
        "chain_q__relu_0__1",
        "chain_m__relu_0__",
        "chain_m",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BitgraphError, match="chain_"):
        parse_chain(name)


def test_equal_chains_share_a_kernel() -> None:
    """Whatever their values are called and their attributes are."""
    text = """
        graph @g {{
          input %{0}: f32[8]
          %{0}.a: f32[8] = scale(%{0}) {{factor={1}}}
          %{0}.b: f32[8] = silu(%{0}.a)
          return %{0}.b
        }}
        """
    plans = [
        make_plan(Fuse()(read(text.format(*pair))), Limits()) for pair in (("x", 2.0), ("y", 3.0))
    ]
    first, second = (plan.schedule.dispatches[0] for plan in plans)
    assert first.kernel == second.kernel == "chain_m__scale_0__silu_1__2"
    assert (first.specialization, second.specialization) == (
        (("COUNT", 8), ("FACTOR_1", 2.0)), (("COUNT", 8), ("FACTOR_1", 3.0)),
    )  # fmt: skip
    assert chain_source(first.kernel).startswith("#version 460\n")


def test_a_result_takes_the_place_only_of_what_is_read_by_then() -> None:
    """The sum is written in the second loop, the third tensor read in the third."""
    chain = "chain_mmvm__add_0_1__rms_norm_4_2__rms_norm_5_2__mul_6_3__4_7"
    total, product = kernel(chain).parameters[-2:]
    assert total.over == ("v0", "v1")
    assert product.over == ("v0", "v1", "v3")


@pytest.mark.parametrize("run", RUNS)
def test_results_that_take_places_are_right(run: Run) -> None:
    """All three tensors end here, and so does what they are made from."""
    graph = read(
        """
        graph @g {
          input %x: f32[3,40]
          input %w: f32[40]
          %a: f32[3,40] = rms_norm(%x, %w) {eps=1e-05}
          %b: f32[3,40] = rms_norm(%a, %w) {eps=1e-05}
          %c: f32[3,40] = rms_norm(%b, %w) {eps=1e-05}
          %sum: f32[3,40] = add(%a, %b)
          %normed: f32[3,40] = rms_norm(%sum, %w) {eps=1e-05}
          %product: f32[3,40] = mul(%normed, %c)
          %y: f32[3,40] = rms_norm(%sum, %w) {eps=1e-05}
          %z: f32[3,40] = rms_norm(%product, %w) {eps=1e-05}
          return %y, %z
        }
        """
    )
    group = graph.nodes[3:6]
    results = (group[0].outputs[0], group[2].outputs[0])
    fused = fused_node("norm_quantize", group, results)
    fused_graph = replace(graph, nodes=(*graph.nodes[:3], fused, *graph.nodes[6:]))
    verify(fused_graph)
    plan = make_plan(fused_graph, Limits())
    places = {plan.slices[name] for name in ("a", "b", "c")}
    assert {plan.slices[name] for name in ("sum", "product")} <= places
    values = drawn(graph)
    assert_nearly(run(fused_graph, values), evaluate(graph, values), SUMS)
