"""Minimum cuts checked by hand, and the integer program against brute force."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from bitgraph.graph.analysis import PLAIN, live_bytes
from bitgraph.graph.ir import Node
from bitgraph.passes.checkpoint.choice import GRAIN, Choices, Moment, cheapest, smallest
from bitgraph.passes.checkpoint.costs import NOMINAL, CostTable, signature, table_of
from bitgraph.passes.checkpoint.cut import Policy, policies
from bitgraph.passes.checkpoint.layers import Layer, find_layers, structure
from bitgraph.passes.checkpoint.memory import measure, rewritten
from graphs import read, training_graph

# x -> a -> b -> c: backward reads c, b is four times as large, everything takes the same time.
CHAIN = """graph @g {
  input %x: f32[8,4]
  input %w: f32[16,4]
  input %v: f32[16,2]
  %a: f32[8,4] = relu(%x) @layers.0
  %b: f32[8,16] = matmul(%a, %w) {transpose_b=true} @layers.0
  %c: f32[8,16] = squared_relu(%b) @layers.0
  %d: f32[8,2] = matmul(%c, %v) {transpose_b=false} @layers.0
  %e: f32[8,2] = relu(%d) @layers.0
  %loss: f32[] = dot(%e, %e) @loss
  %s: f32[] = full_like(%loss) {value=1.0} @loss/grad
  %de: f32[8,2] = mul_scalar(%e, %s) @loss/grad
  %dd: f32[8,2] = mul(%de, %d) @layers.0/grad
  %dw: f32[16,2] = contract_rows(%c, %dd) @layers.0/grad
  %db: f32[8,16] = mul(%b, %c) @layers.0/grad
  %total: f32[] = dot(%db, %db) @layers.0/grad
  return %loss, %dw, %total
}"""


def costs_by_op(**seconds: float) -> CostTable:
    """Every node of an op takes the same."""

    class Fixed(CostTable):
        def seconds(self, node: Node) -> float:
            return seconds[node.op]

    return Fixed()


def chain() -> Layer:
    """The layer, with a cost for its element-wise nodes."""
    (layer,) = find_layers(read(CHAIN))
    return replace(layer, free=frozenset())


def names(layer: Layer, policy: Policy) -> set[str]:
    return {value.name for k in policy.recomputed for value in layer.nodes[k].outputs}


def test_a_layer_knows_what_backward_reads() -> None:
    layer = chain()
    assert layer.wanted == {"b", "c", "d"}
    assert layer.kept == {"e"}  # the loss's gradient reads it
    assert layer.held == {"x", "w", "v"}


def test_what_backward_can_make_from_what_it_reads_is_free() -> None:
    """c of b, which backward reads; not b of a, which it does not read."""
    (layer,) = find_layers(read(CHAIN))
    assert {layer.nodes[k].outputs[0].name for k in layer.free} == {"c"}
    found = policies(layer, costs_by_op(relu=1.0, squared_relu=1.0, matmul=10.0))
    assert [names(layer, policy) for policy in found] == [
        {"c"},
        {"a", "b", "c"},
        {"a", "b", "c", "d"},
    ]
    assert [policy.seconds for policy in found] == [0, 11, 21]


def test_cuts_from_everything_saved_to_everything_recomputed() -> None:
    """b and c take 512 bytes, d takes 64; c comes cheaply from b, b dearly from the input."""
    layer = chain()
    found = policies(layer, costs_by_op(relu=1.0, squared_relu=1.0, matmul=10.0))
    assert [names(layer, policy) for policy in found] == [
        set(),
        {"c"},
        {"a", "b", "c"},
        {"a", "b", "c", "d"},
    ]
    assert [policy.saved_bytes for policy in found] == [1088, 576, 64, 0]
    assert [policy.seconds for policy in found] == [0, 1, 12, 22]


def test_a_dear_chain_is_cut_where_it_is_thin() -> None:
    """If relu is dear, its small result is worth saving: a takes 128 bytes, b 512."""
    layer = chain()
    found = policies(layer, costs_by_op(relu=100.0, squared_relu=1.0, matmul=1.0))
    assert {"b", "c", "d"} in [names(layer, policy) for policy in found]
    (thin,) = [policy for policy in found if names(layer, policy) == {"b", "c", "d"}]
    assert thin.saved_bytes == 8 * 4 * 4
    assert thin.seconds == 3


def test_policies_lie_on_a_convex_hull() -> None:
    """Saving a byte more never gets cheaper by the byte."""
    layers = find_layers(training_graph(160))
    for layer in layers:
        found = policies(layer, NOMINAL)
        assert len(found) >= 4
        slopes = [
            (a.saved_bytes - b.saved_bytes) / (b.seconds - a.seconds) for a, b in pairwise(found)
        ]
        assert all(first > second * 0.999 for first, second in pairwise(slopes))
        assert found[0].recomputed == layer.free
        assert found[0].seconds == 0


def test_no_subset_of_a_small_layer_beats_the_cut() -> None:
    """All subsets of nodes, tried one by one, at several prices."""
    layer = chain()
    table = costs_by_op(relu=1.0, squared_relu=2.0, matmul=5.0)
    found = policies(layer, table)
    size = {v.name: v.type.nbytes for node in layer.nodes for v in node.outputs}
    every = []
    for flags in product((False, True), repeat=len(layer.nodes)):
        again = {n.outputs[0].name for n, flag in zip(layer.nodes, flags, strict=True) if flag}
        needed = set(layer.wanted) - again
        for node in layer.nodes:
            if node.outputs[0].name in again:
                needed |= {v.name for v in node.inputs if v.name in size} - again
        seconds = sum(table.seconds(n) for n, flag in zip(layer.nodes, flags, strict=True) if flag)
        every.append((sum(size[name] for name in needed - layer.kept), seconds))
    for price in (1.0, 10.0, 50.0, 100.0, 1000.0):
        best = min(saved + price * seconds for saved, seconds in every)
        ours = min(policy.saved_bytes + price * policy.seconds for policy in found)
        assert ours == pytest.approx(best)


def test_layers_that_differ_in_names_share_their_cut() -> None:
    text = CHAIN.replace("layers.0", "layers.7")
    (other,) = find_layers(read(text))
    assert structure(other) == structure(chain())
    wider = CHAIN.replace("%db: f32[8,16] = mul(%b, %c)", "%db: f32[8,16] = mul(%c, %c)")
    (changed,) = find_layers(read(wider))
    assert structure(changed) != structure(chain())


def test_a_view_costs_nothing_and_goes_with_what_it_views() -> None:
    graph = training_graph(160)
    for layer in find_layers(graph):
        for policy in policies(layer, NOMINAL):
            again = names(layer, policy)
            for node in layer.nodes:
                if node.op == "reshape":
                    assert (node.outputs[0].name in again) == (node.inputs[0].name in again)


def random_choices(seed: int) -> Choices:
    """Four layers, two of which are alike, with memory that falls as time rises."""
    rng = np.random.default_rng(seed)
    counts = [3, 3, 2, 4]
    seconds = [np.append(0, np.cumsum(rng.uniform(0.1, 1, n - 1))) for n in counts]
    saved = [np.flip(np.cumsum(GRAIN * rng.integers(1 << 12, 9 << 12, n))) for n in counts]
    moments = [
        Moment(k, frozenset(range(k)), tuple((GRAIN * rng.integers(1 << 12, 30 << 12, n)).tolist()))
        for k, n in enumerate(counts)
    ]
    moments.append(
        Moment(None, frozenset(range(4)), (GRAIN * int(rng.integers(1 << 12, 9 << 12)),))
    )
    return Choices(
        tuple(tuple(each.tolist()) for each in seconds),
        tuple(tuple(each.tolist()) for each in saved),
        tuple(moments),
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_integer_program_finds_what_brute_force_finds(seed: int) -> None:
    choices = random_choices(seed)
    every = list(product(*(range(len(each)) for each in choices.seconds)))
    peaks = {chosen: choices.peak(chosen) for chosen in every}
    least, most = min(peaks.values()), max(peaks.values())
    assert choices.peak(smallest(choices)) == least
    assert cheapest(choices, least - 1) is None
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        budget = int(least + share * (most - least))
        best = min(choices.time(chosen) for chosen, peak in peaks.items() if peak <= budget)
        chosen = cheapest(choices, budget)
        assert chosen is not None
        assert choices.peak(chosen) <= budget
        assert choices.time(chosen) <= best * 1.001 + 1e-9


def test_alike_layers_of_a_model_lose_nothing_by_their_order() -> None:
    """The program lets later layers save no less; brute force over all orders is no better."""
    graph = training_graph(160)
    layers = find_layers(graph)
    offered = [policies(layer, NOMINAL) for layer in layers]
    choices = measure(graph, layers, offered, PLAIN)
    own = next(moment.own for moment in choices.moments if moment.layer == 1)
    alike = Choices(
        (choices.seconds[1],) * 2,
        (choices.saved[1],) * 2,
        tuple(Moment(k, frozenset(range(k)), own) for k in range(2)),
    )
    every = list(product(range(len(choices.seconds[1])), repeat=2))
    for budget in sorted({alike.peak(chosen) for chosen in every}):
        best = min(alike.time(c) for c in every if alike.peak(c) <= budget)
        chosen = cheapest(alike, budget)
        assert chosen is not None
        assert alike.time(chosen) <= best * 1.001 + 1e-12


def test_the_peak_is_that_of_the_rewritten_graph() -> None:
    """The program counts with what other layers save; the sum is the peak of the graph itself."""
    graph = training_graph(160)
    layers = find_layers(graph)
    offered = [policies(layer, NOMINAL) for layer in layers]
    choices = measure(graph, layers, offered, PLAIN)
    rng = np.random.default_rng(0)
    for _ in range(12):
        chosen = [int(rng.integers(len(each))) for each in offered]
        trial = rewritten(graph, layers, [each[k] for each, k in zip(offered, chosen, strict=True)])
        counted = int(live_bytes(trial, alignment=GRAIN).max())
        assert counted <= choices.peak(chosen) <= 1.02 * counted


def test_a_table_corrects_what_it_does_not_hold() -> None:
    nodes = chain().nodes
    table = table_of("here", [(nodes[0], 2e-3), (nodes[1], 5e-3)])
    assert table.seconds(nodes[0]) == 2e-3
    assert table.seconds(nodes[1]) == 5e-3
    factor = 2e-3 / NOMINAL.seconds(nodes[0])
    assert table.seconds(nodes[4]) == pytest.approx(factor * NOMINAL.seconds(nodes[4]))
    assert signature(nodes[1]) == "matmul(f32[8,4], f32[16,4]) {transpose_b=true}"
