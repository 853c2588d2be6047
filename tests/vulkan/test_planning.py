"""Memory planning, barriers and windows, without a device: intervals in, offsets out."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.barriers import insert_barriers
from bitgraph.backends.vulkan.layout import to_bytes, view
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.memory import (
    Interval,
    _orders,
    _place_in_order,
    live_lower_bound,
    place,
)
from bitgraph.backends.vulkan.plan import Plan, make_plan
from bitgraph.backends.vulkan.runner import run_commands, run_plan
from bitgraph.backends.vulkan.schedule import Access, Barrier, Binding, Command, Dispatch, Slice
from bitgraph.backends.vulkan.window import CURSOR, log_of, window_of, window_steps, with_window
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.types import tensor
from bitgraph.models.bitnet.forward import (
    FIRST_SLOT,
    STOPS,
    decode_graph,
    logits_graph,
    loss_graph,
)
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.passes.fuse.fuse import Fuse
from graphs import all_graphs, pretraining_graph, training_graph
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import CONFIG, batch_values, model_values, random_batch, random_values

LIMITS = Limits(alignment=16, max_allocation=1 << 20, max_range=1 << 20)

INTERVALS = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=30
).map(lambda rows: [Interval(f"v{k}", size, a, a + n) for k, (size, a, n) in enumerate(rows)])


def test_two_values_that_never_meet_share_bytes() -> None:
    intervals = [Interval("a", 64, 0, 1), Interval("b", 32, 1, 2), Interval("c", 48, 2, 3)]
    placement = place(intervals, LIMITS)
    assert placement.slices == {
        "a": Slice("arena0", 0, 64),  # the largest first
        "c": Slice("arena0", 0, 48),  # a is dead by then
        "b": Slice("arena0", 64, 32),  # meets both
    }
    assert [arena.size for arena in placement.arenas] == [96]
    assert live_lower_bound(intervals) == 96


@given(INTERVALS)
def test_values_alive_together_never_overlap(intervals: list[Interval]) -> None:
    placement = place(intervals, LIMITS)
    sizes = {arena.name: arena.size for arena in placement.arenas}
    for k, first in enumerate(intervals):
        mine = placement.slices[first.name]
        assert mine.offset % LIMITS.alignment == 0
        assert mine.size == first.size
        assert mine.offset + mine.size <= sizes[mine.buffer]
        for second in intervals[k + 1 :]:
            if first.begin <= second.end and second.begin <= first.end:
                assert not mine.overlaps(placement.slices[second.name])
    assert sum(sizes.values()) >= live_lower_bound(intervals, LIMITS.alignment)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(48, 3, 6), (64, 1, 1), (32, 2, 3), (64, 1, 4)], id="breadth"),
        pytest.param([(16, 0, 3), (48, 3, 6), (80, 5, 7), (64, 2, 3), (48, 3, 4)], id="size"),
    ],
)
def test_the_better_of_two_orders_is_kept(rows: list[tuple[int, int, int]]) -> None:
    """Each of the two orders needs 16 bytes more than there must be for one of these."""
    intervals = [Interval(f"v{k}", *row) for k, row in enumerate(rows)]
    (arena,) = place(intervals, LIMITS).arenas
    by_order = [_place_in_order(order, LIMITS).arenas[0].size for order in _orders(intervals)]
    assert arena.size == live_lower_bound(intervals)
    assert sorted(by_order) == [arena.size, arena.size + 16]


def test_the_lower_bound_counts_what_alignment_adds() -> None:
    intervals = [Interval("a", 1, 0, 1), Interval("b", 17, 1, 1), Interval("c", 40, 2, 2)]
    assert live_lower_bound(intervals) == 40
    assert live_lower_bound(intervals, alignment=16) == 48
    assert live_lower_bound([]) == 0


def test_arenas_keep_to_the_largest_allocation() -> None:
    limits = Limits(alignment=16, max_allocation=100, max_range=100)
    placement = place([Interval(f"v{k}", 60, 0, 1) for k in range(3)], limits)
    assert [arena.size for arena in placement.arenas] == [64, 64, 64]
    with pytest.raises(BitgraphError, match="takes 101 bytes, but the device binds at most 100"):
        place([Interval("v", 101, 0, 1)], limits)


def dispatch(label: str, *uses: tuple[str, int, int, str]) -> Dispatch:
    bindings = tuple(Binding(Slice(b, at, size), Access(how)) for b, at, size, how in uses)
    return Dispatch("copy", (), bindings, (1, 1, 1), label)


@pytest.mark.parametrize(
    ("first", "second", "ordered"),
    [
        (("a", 0, 8, "read"), ("a", 0, 8, "read"), False),
        (("a", 0, 8, "write"), ("a", 0, 8, "read"), True),
        (("a", 0, 8, "read"), ("a", 4, 8, "write"), True),
        (("a", 0, 8, "write"), ("a", 7, 8, "write"), True),
        (("a", 0, 8, "write"), ("a", 8, 8, "read"), False),
        (("a", 0, 8, "update"), ("a", 0, 8, "update"), True),
        (("a", 0, 8, "write"), ("b", 0, 8, "read"), False),
    ],
)
def test_a_barrier_stands_where_order_matters(
    first: tuple[str, int, int, str], second: tuple[str, int, int, str], ordered: bool
) -> None:
    commands = insert_barriers([dispatch("1", first), dispatch("2", second)])
    assert any(isinstance(command, Barrier) for command in commands) == ordered


def state_of(graph: Graph, seed: int = 3) -> dict[str, HostValue]:
    values: dict[str, HostValue] = dict(random_values(graph, (Role.PARAM, Role.STATE), seed))
    return {k: v for k, v in values.items() if k in {i.value.name for i in graph.inputs}}


STEPS = [
    pytest.param(kind, fused, id=f"{name}{'-fused' * fused}")
    for name, kind in (("adapters", training_graph), ("masters", pretraining_graph))
    for fused in (False, True)
]


def step_values(
    kind: Callable[[int], Graph] = training_graph, fused: bool = False
) -> tuple[Graph, dict[str, HostValue]]:
    """A training step of the tiny model, and all it reads."""
    batch = random_batch([7, 5], multiple=4, whole=True)
    graph = kind(batch.tokens.size)
    graph = Fuse()(graph) if fused else graph
    schedule = {"lr": np.array(1e-2, np.float32), "step": np.array(3, np.int32)}
    values = {**model_values(), **state_of(graph), **batch_values(batch), **schedule}
    return graph, {item.value.name: values[item.value.name] for item in graph.inputs}


def nearly(given: HostValue, wanted: HostValue) -> bool:
    first, second = np.asarray(given), np.asarray(wanted)
    scale = np.abs(second).max(initial=1e-6)
    return bool(
        np.all(np.isfinite(first)) and np.abs(first - second).max(initial=0) <= 1e-4 * scale
    )


def survives_shuffling(
    graph: Graph, values: Mapping[str, HostValue], wanted: Mapping[str, HostValue]
) -> Plan:
    """The plan of a graph, which gives what is wanted in five orders."""
    plan = make_plan(graph, Limits())
    for seed in range(5):
        results = run_plan(plan, graph, values, np.random.default_rng(seed))
        for name, value in wanted.items():
            assert nearly(results[name], value), name
    return plan


@pytest.mark.parametrize(("kind", "fused"), STEPS)
def test_a_training_step_survives_poison_and_shuffling(
    kind: Callable[[int], Graph], fused: bool
) -> None:
    graph, values = step_values(kind, fused)
    wanted = evaluate(graph, values)
    plan = survives_shuffling(graph, values, wanted)
    assert plan.arena_bytes <= 1.03 * plan.lower_bound


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_token_of_each_sequence_survives_poison_and_shuffling(fused: bool) -> None:
    """States that are read through the step and move on at its end, among them."""
    graph = decode_graph(CONFIG, 16, sequences=3)
    graph = Fuse()(graph) if fused else graph
    scalars = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "reach": -1.0, "seed": 3}
    types = {value.name: value.type for value in graph.inputs_of(Role.INPUT)}
    values = {
        **model_values(),
        **state_of(graph),
        **{name: np.array(value, types[name].dtype.numpy) for name, value in scalars.items()},
        "stops": np.full(STOPS, -1, np.int32),
        FIRST_SLOT: np.array([0, 16, 32], np.int32),
        "token": np.array([5, 9, 2], np.int32),
        "position": np.array([4, 0, 15], np.int32),
        "slot": np.array([4, 16, 47], np.int32),
        "stopped": np.array([0, 0, 1], np.int32),
    }
    values = {item.value.name: values[item.value.name] for item in graph.inputs}
    wanted = evaluate(graph, values)
    survives_shuffling(graph, values, wanted)
    assert np.asarray(wanted["slot.new"]).tolist() == [5, 17, 48]


class Reversed:
    """Stands in for a generator: turns every group of dispatches around."""

    @staticmethod
    def permutation(count: int) -> list[int]:
        return list(range(count))[::-1]


def fails(plan: Plan, commands: tuple[Command, ...], graph: Graph, values: dict[str, HostValue],
          wanted: dict[str, HostValue]) -> bool:  # fmt: skip
    """Whether commands give a wrong result in some order that they allow."""
    for order in (Reversed(), *(np.random.default_rng(seed) for seed in range(40))):
        memory = {b.name: np.full(b.size, 0xFF, np.uint8) for b in plan.schedule.buffers}
        for name, value in values.items():
            memory[name][:] = to_bytes(value)
        try:
            run_commands(commands, memory, order)  # type: ignore[arg-type]
        except IndexError:  # poison taken for an index
            return True
        for output in graph.outputs:
            place_ = plan.slices[output.name]
            data = memory[place_.buffer][place_.offset : place_.offset + place_.size]
            if not nearly(view(data, output.type), wanted[output.name]):
                return True
    return False


@pytest.mark.parametrize(("kind", "fused"), STEPS)
def test_every_barrier_of_a_training_step_is_needed(
    kind: Callable[[int], Graph], fused: bool
) -> None:
    graph, values = step_values(kind, fused)
    wanted = evaluate(graph, values)
    plan = make_plan(graph, Limits())
    commands = plan.schedule.commands
    barriers = [k for k, command in enumerate(commands) if isinstance(command, Barrier)]
    assert len(barriers) > (30 if fused else 50)
    for k in barriers:
        assert fails(plan, commands[:k] + commands[k + 1 :], graph, values, wanted), k


@pytest.mark.parametrize("others", [0, 20], ids=["tight", "roomy"])
def test_a_place_is_not_taken_from_who_need_not_come_first(others: int) -> None:
    """The second norm may run beside the dot product that reads the first, if there is room."""
    b = GraphBuilder("beside")
    x, y, w = (
        b.add_input(name, tensor("f32", *shape), Role.INPUT)
        for name, shape in {"x": (16, 64), "y": (16, 64), "w": (64,)}.items()
    )
    large = [b.add_input(f"large{k}", tensor("f32", 64, 64), Role.INPUT) for k in range(others)]
    kept = [b.op("silu", value) for value in large]
    first = b.op("rms_norm", x, w, eps=1e-5)
    dots = [b.op("dot", first, y)]
    second = b.op("rms_norm", y, w, eps=1e-5)
    dots += [b.op("dot", second, x), *(b.op("dot", value, value) for value in kept)]
    plan = make_plan(b.finish(tuple(dots)), Limits())
    assert plan.slices[first.name].overlaps(plan.slices[second.name]) != bool(others)
    barriers = sum(isinstance(command, Barrier) for command in plan.schedule.commands)
    assert barriers == (2 if others else 3)


def test_a_window_feeds_steps_and_keeps_their_results() -> None:
    graph = all_graphs()["logits"]
    plan = with_window(make_plan(graph, Limits()), 3, Limits())
    weights = {k: v for k, v in model_values().items() if k in plan.slices}
    memory = {b.name: np.full(b.size, 0xFF, np.uint8) for b in plan.schedule.buffers}
    for name, value in weights.items():
        memory[name][:] = to_bytes(value)
    memory[CURSOR][:] = 0
    batches = [batch_values(random_batch([5], seed=seed)) for seed in range(3)]
    inputs = [item.name for item in graph.inputs_of(Role.INPUT)]
    for name in inputs:
        memory[window_of(name)][:] = to_bytes(np.stack([batch[name] for batch in batches]))
    (logits,) = graph.outputs
    for step, batch in enumerate(batches):
        run_commands(plan.schedule.commands, memory, np.random.default_rng(step))
        (wanted,) = evaluate(graph, {**weights, **{n: batch[n] for n in inputs}}).values()
        log = memory[log_of(logits.name)].view(np.float32).reshape(3, *logits.type.shape)
        assert nearly(log[step], wanted)
    assert memory[CURSOR].view(np.int32).tolist() == [3]


def test_a_large_cache_leaves_the_window_as_long_as_it_is() -> None:
    """A cache stays where it is: only what moves from step to step takes room in a window."""
    config = preset_config("2b-4t")
    assert window_steps(decode_graph(config, 4096)) == window_steps(decode_graph(config, 16)) == 64
    assert window_steps(loss_graph(config, 2048)) == 64
    assert window_steps(logits_graph(config, 64)) == 1


def test_a_schedule_prints() -> None:
    graph, _ = step_values()
    plan = make_plan(graph, Limits())
    text = str(plan.schedule)
    assert str(plan) == f"// arenas: {plan.arenas}\n{text}"
    assert text.startswith("schedule @bitnet_loss {\n")
    assert "  barrier\n" in text
    assert "ternary_matmul" in text
