"""Projections of few rows with what is around them, on Vulkan against the nodes apart in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import KNOWN_LIMITS, Limits
from bitgraph.backends.vulkan.lowering import lower_calls
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.backends.vulkan.schedule import Barrier
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Alias, Graph, Role, Value
from bitgraph.graph.ops.draws import normal
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import DType, tensor
from bitgraph.models.bitnet.forward import FREQUENCIES, decode_graph
from bitgraph.models.bitnet.presets import PRESETS
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from op_cases import assert_close, assert_same_bits
from vulkan_cases import RUNS, Run, assert_heads, device_limits, run_on_device, simulate

SUMMED = 1e-5
"""Beside the largest element: sums in another order."""
FLIPPED = 1e-3
"""The same, where a code that another one follows from may round the other way."""
FEW = Limits(bindings=9, max_groups=11)
"""Members in several dispatches, workgroups in y."""
LANES = frozenset({"subgroup_shuffle", "full_subgroups"})
DOT = frozenset({"integer_dot_product"})
PLACES = 12
HEAD = 16


class Layer:
    """Builds one part of a layer, for as many rows as slots."""

    def __init__(
        self,
        slots: tuple[int, ...],
        inner: int,
        ranks: tuple[int, ...],
        builder: GraphBuilder | None = None,
        x: Value | None = None,
    ) -> None:
        self.b = builder or GraphBuilder("part")
        self.slots, self.inner, self.ranks = slots, inner, ranks
        self.aliases: list[Alias] = []
        self.x = x or self.given("x", "f32", len(slots), inner)
        norm = self.given("norm" if x is None else "next_norm", "f32", inner)
        self.normed = self.b.op("rms_norm", self.x, norm, eps=1e-5)
        self.codes = self.b.op("quantize", self.normed)

    def given(self, name: str, dtype: str, *shape: int, role: Role = Role.INPUT) -> Value:
        return self.b.add_input(name, tensor(dtype, *shape), role)

    def project(self, number: int, out: int) -> Value:
        y = self.b.op("ternary_matmul", self.codes, self.given(f"w{number}", "t2", out, self.inner))
        rank = self.ranks[number % len(self.ranks)] if self.ranks else 0
        if rank:
            a = self.given(f"a{number}", "f32", rank, self.inner)
            low = self.b.op("matmul", self.normed, a, transpose_b=True)
            low = self.b.op("scale", low, factor=1.5)
            b = self.given(f"b{number}", "f32", out, rank)
            y = self.b.op("add", y, self.b.op("matmul", low, b, transpose_b=True))
        return y

    def heads(self, y: Value, table: Value | None) -> Value:
        y = self.b.op("reshape", y, row=(y.type.shape[1] // HEAD, HEAD))
        return y if table is None else self.b.op("rope", y, table, inverse=False)

    def keep(self, name: str, heads: Value, slots: Value, in_place: bool) -> Value:
        role = Role.STATE if in_place else Role.INPUT
        old = self.given(name, "f32", PLACES, *heads.type.shape[1:], role=role)
        new = self.b.op("write_rows", old, heads, slots, name=f"{name}.new")
        if in_place:
            self.aliases.append(Alias(new.name, old.name))
        return new


def attention_part(
    slots: tuple[int, ...], inner: int, ranks: tuple[int, ...] = (), in_place: bool = True
) -> Graph:
    """Queries, and keys and values in their caches."""
    part = Layer(slots, inner, ranks)
    table = part.given("table", "f32", len(slots), HEAD)
    places = part.given("slots", "i32", len(slots))
    q = part.heads(part.project(0, 5 * HEAD), table)
    k = part.keep("keys", part.heads(part.project(1, 2 * HEAD), table), places, in_place)
    v = part.keep("values", part.heads(part.project(2, 2 * HEAD), None), places, in_place)
    return part.b.finish((q, k, v), tuple(part.aliases))


def gate_part(
    rows: int, inner: int, out: int, act: str, ranks: tuple[int, ...] = (), swapped: bool = False
) -> Graph:
    part = Layer(tuple(range(rows)), inner, ranks)
    gate, up = part.project(0, out), part.project(1, out)
    if swapped:
        gate, up = up, gate
    return part.b.finish((part.b.op("mul", part.b.op(act, gate), up),))


def residual_part(rows: int, inner: int, out: int, ranks: tuple[int, ...] = ()) -> Graph:
    part = Layer(tuple(range(rows)), inner, ranks)
    return part.b.finish(
        (part.b.op("add", part.given("r", "f32", rows, out), part.project(0, out)),)
    )


def drawn(graph: Graph, slots: tuple[int, ...]) -> dict[str, HostValue]:
    rng = np.random.default_rng(0)
    values = {item.value.name: normal(rng, item.value.type) for item in graph.inputs}
    if "slots" in values:
        values["slots"] = np.array(slots, np.int32)
    return values


CASES = {
    "attention": (attention_part((7,), 256), (7,)),
    "attention-apart": (attention_part((0,), 128, in_place=False), (0,)),
    "attention-adapted": (attention_part((11,), 1280, (4,)), (11,)),
    "attention-partly-adapted": (attention_part((3,), 256, (3, 0, 16)), (3,)),
    "attention-rows": (attention_part((5, 2, 9, 0, 1), 256), (5, 2, 9, 0, 1)),
    "attention-same-slot": (attention_part((5, 2, 5), 256, (8,)), (5, 2, 5)),
    "gate": (gate_part(1, 640, 33, "squared_relu"), ()),
    "gate-silu": (gate_part(1, 256, 40, "silu", (16,), swapped=True), ()),
    "gate-rows": (gate_part(8, 128, 37, "silu", (2,)), ()),
    "gate-partly-adapted": (gate_part(1, 128, 20, "squared_relu", (4, 0)), ()),
    "gate-adapted-by-other-ranks": (gate_part(1, 128, 20, "squared_relu", (4, 8)), ()),
    "residual": (residual_part(1, 6912, 51), ()),
    "residual-adapted": (residual_part(1, 1024, 64, (16,)), ()),
    "residual-rows": (residual_part(3, 384, 1, (5,)), ()),
    "odd-width": (residual_part(1, 100, 20, (4,)), ()),
    "gate-odd-width": (gate_part(1, 60, 20, "silu", (4,)), ()),
}


def assert_right(graph: Graph, slots: tuple[int, ...], got: dict[str, HostValue]) -> None:
    for name, expected in evaluate(graph, drawn(graph, slots)).items():
        assert_close(got[name], expected, SUMMED)


@pytest.mark.parametrize("limits", [Limits(), FEW], ids=["plain", "few"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", CASES)
def test_fused(name: str, run: Run, limits: Limits) -> None:
    graph, slots = CASES[name]
    fused = Fuse()(graph)
    assert "projections" in {node.attributes.get("pattern") for node in fused.nodes} or (
        "rows" in name and "residual" in name
    )
    assert_right(graph, slots, run(fused, drawn(graph, slots), limits))


@pytest.mark.parametrize("name", CASES)
def test_the_meaning_is_that_of_the_nodes(name: str) -> None:
    graph, slots = CASES[name]
    results = evaluate(Fuse()(graph), drawn(graph, slots))
    for key, expected in evaluate(graph, drawn(graph, slots)).items():
        assert_same_bits(results[key], expected)


@pytest.mark.parametrize("features", [DOT, LANES, DOT | LANES], ids=["dot", "lanes", "both"])
@pytest.mark.parametrize("name", CASES)
def test_on_devices_with_more(name: str, features: frozenset[str]) -> None:
    graph, slots = CASES[name]
    fused, values = Fuse()(graph), drawn(graph, slots)
    limits = replace(device_limits(), features=features)
    assert_right(graph, slots, simulate(fused, values, limits))
    if device_limits().features >= features:
        assert_right(graph, slots, run_on_device(fused, values, limits))


def test_codes_that_are_given_are_used_together() -> None:
    """Two products of the same codes, from no norm that is known."""
    b = GraphBuilder("given")
    codes = b.add_input("codes", tensor("q8", 2, 128), Role.INPUT)
    weights = [b.add_input(f"w{k}", tensor("t2", 9, 128), Role.WEIGHT) for k in range(2)]
    graph = b.finish(tuple(b.op("ternary_matmul", codes, w) for w in weights))
    values = drawn(graph, ())
    (call,) = lower_calls(Fuse()(graph), Limits()).calls
    assert call.kernel == "ternary_matvec+2"
    assert_right(graph, (), run_on_device(Fuse()(graph), values))


def test_a_norm_that_is_read_elsewhere_is_not_taken_again() -> None:
    part = Layer((0,), 128, ())
    graph = part.b.finish((part.project(0, 16), part.project(1, 16), part.normed))
    patterns = [node.attributes["pattern"] for node in Fuse()(graph).nodes]
    assert patterns == ["norm_quantize", "projections"]
    assert_right(graph, (), run_on_device(Fuse()(graph), drawn(graph, ())))


def test_a_gate_that_is_read_elsewhere_is_multiplied_apart() -> None:
    part = Layer((0,), 128, ())
    gate, up = part.project(0, 16), part.project(1, 16)
    graph = part.b.finish((part.b.op("mul", part.b.op("silu", gate), up), gate))
    kernels = [call.kernel for call in lower_calls(Fuse()(graph), Limits()).calls]
    assert kernels[0] == "ternary_matvec+normed+2"
    assert_right(graph, (), run_on_device(Fuse()(graph), drawn(graph, ())))


def test_slots_outside_a_cache_are_skipped() -> None:
    graph, _ = CASES["attention-rows"]
    fused = Fuse()(graph)
    slots = (-1, 2, PLACES, 0, 1)
    values = drawn(graph, slots)
    inside = {**values, "slots": np.array((2, 2, 0, 0, 1), np.int32)}  # rows 1, 3 and 4 count
    for run in (simulate, run_on_device):
        assert_close(run(fused, values)["keys.new"], evaluate(graph, inside)["keys.new"], SUMMED)


def test_calls_that_nobody_needs_are_dropped() -> None:
    """But not those that write into a state, whatever is returned."""
    b = GraphBuilder("unread")
    x = b.add_input("x", tensor("f32", 4), Role.INPUT)
    state = b.add_input("s", tensor("f32", 4), Role.STATE)
    b.op("silu", b.op("relu", x))
    new = b.op("add", state, x, name="s.new")
    graph = b.finish((new,), (Alias("s.new", "s"),))
    assert [call.kernel for call in lower_calls(graph, Limits()).calls] == ["add"]


# Whole tokens


def token(layers: int, rank: int, inner: int = 384, context: int = 40) -> Graph:
    """A decoded token of a small model, with adapters on all projections unless the rank is 0."""
    config = replace(
        PRESETS["2b-4t"],
        hidden_size=256,
        intermediate_size=inner,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=layers,
        vocab_size=60,
    )
    pipeline = f"lora{{rank={rank}}},dce" if rank else "dce"
    return PassManager(parse_pipeline(pipeline)).run(decode_graph(config, context))


def token_values(graph: Graph, position: int) -> dict[str, HostValue]:
    """Random weights and caches; the token is chosen greedily."""
    values = drawn(graph, ())
    for item in graph.inputs:
        name, type = item.value.name, item.value.type
        if type.dtype is not DType.T2 and (type.dtype is not DType.F32 or not type.shape):
            values[name] = np.zeros(type.shape, type.dtype.numpy)
    table = values["embed_tokens.weight"]
    values["embed_tokens.weight"] = normal(np.random.default_rng(1), tensor("f16", *table.shape))
    values["position"] = np.array([position], np.int32)
    values[FREQUENCIES] = np.geomspace(1, 1e-3, 64, dtype=np.float32)
    return values


@pytest.mark.parametrize("features", [frozenset(), DOT | LANES], ids=["plain", "more"])
@pytest.mark.parametrize(("context", "position"), [(40, 5), (110, 70), (300, 5), (300, 299)])
@pytest.mark.parametrize("rank", [0, 3, 16, 64])
def test_a_token(rank: int, context: int, position: int, features: frozenset[str]) -> None:
    """Caches of one span of keys and of several, some of which nothing is in yet."""
    graph = token(2, rank, context=context)
    fused, values = Fuse()(graph), token_values(graph, position)
    limits = replace(device_limits(), features=features & device_limits().features)
    want = evaluate(graph, values)
    kept = [name for name in want if ".cache.new" in name]
    assert len(kept) == 4
    for run in (simulate, run_on_device):
        got = run(fused, values, limits)
        for name in kept:
            assert_close(got[name], want[name], FLIPPED)
        np.testing.assert_array_equal(got["next"], want["next"])
    kernels = [call.kernel for call in lower_calls(fused, limits).calls]
    assert "attention_merge" not in kernels or limits.features == frozenset()


def test_narrow_products_are_added_up_where_their_x_is_made() -> None:
    """All but those of the first layer's x, which a lookup makes."""
    limits = replace(KNOWN_LIMITS["h100"], shared_memory=49152)
    kernels = [call.kernel for call in lower_calls(Fuse()(token(2, 16)), limits).calls]
    assert sum(name.startswith("thin_") for name in kernels) == 1
    assert sum("+ahead" in name for name in kernels) == sum("+parts" in name for name in kernels)
    assert sum("+parts" in name for name in kernels) == 7


def test_narrow_products_of_several_kinds_are_a_stage_of_their_own() -> None:
    """One y from an x that a product makes; its adapters have two ranks."""
    part = Layer((0,), 128, (4, 8))
    made = part.b.op("add", part.x, part.project(0, 128))
    rest = Layer((0,), 128, (4, 8), part.b, made)
    graph = part.b.finish((rest.project(1, 20), rest.project(2, 30), made))
    kernels = [call.kernel for call in lower_calls(Fuse()(graph), Limits()).calls]
    assert not any("ahead" in name for name in kernels)
    for run in (simulate, run_on_device):
        assert_right(graph, (), run(Fuse()(graph), drawn(graph, ())))


@pytest.mark.parametrize("context", [128, 1000])
@pytest.mark.parametrize("rank", [0, 16])
def test_a_decoded_token_has_few_stages(rank: int, context: int) -> None:
    """A layer has five, with adapters on all projections too, and with a few spans of keys."""
    stages = []
    for layers in (1, 3):
        config = replace(PRESETS["2b-4t"], num_hidden_layers=layers)
        pipeline = f"lora{{rank={rank}}},dce,fuse" if rank else "dce,fuse"
        graph = PassManager(parse_pipeline(pipeline)).run(decode_graph(config, context))
        commands = make_plan(graph, KNOWN_LIMITS["h100"]).schedule.commands
        stages.append(sum(isinstance(command, Barrier) for command in commands))
    assert stages[1] - stages[0] == 2 * 5


OPTIONS = ("", "+dot", "+shuffled", "+normed", "+low", "+added", "+low+added", "+low+rotated")
MORE = ("+gated+2", "+kept", "+rotated+kept+3", "+dot+shuffled+normed+low+rotated+kept+3")
AHEAD = ("+normed+low+parts+rotated+kept+3", "+dot+shuffled+normed+low+parts+added+ahead3")
MERGED = ("+normed+merged+added", "+dot+shuffled+normed+merged+low+parts+added+ahead2")


@pytest.mark.parametrize("target", ["vulkan1.2", "vulkan1.3"])
def test_kernels_are_what_their_heads_say(target: str) -> None:
    adapted = ("thin_matvec+normed", "thin_matvec+normed+3", "attention_few+ahead1")
    gated = ("+dot+shuffled+normed+low+gated+2", "+normed+low+parts+gated+2+ahead1")
    assert_heads(
        [f"ternary_matvec{some}" for some in (*OPTIONS, *MORE, *AHEAD, *MERGED, *gated)], target
    )
    assert_heads(adapted, target)
