"""Checkpointing: results keep their bits, budgets hold, and what cannot be met is said."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.analysis import input_bytes, live_bytes
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.sizes import parse_size
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError
from bitgraph.graph.verify import verify
from bitgraph.passes.checkpoint.checkpoint import Checkpoint, predicted_bytes
from bitgraph.passes.checkpoint.layers import is_recomputed
from bitgraph.passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from bitgraph.passes.fuse.elementwise import is_elementwise
from graphs import training_graph
from op_cases import assert_same_bits
from tiny_model import batch_values, model_values, random_batch, random_values

LENGTHS = [50, 70, 40]
TOKENS = sum(LENGTHS)


def plain() -> Graph:
    graph = training_graph(TOKENS)
    return replace(graph, outputs=tuple(v for v in graph.outputs if v.name != "nll"))


def activations(graph: Graph) -> int:
    return int(live_bytes(graph, alignment=256).max())


def budget_of(share: float) -> str:
    """The budget that leaves so much of what the plain step's activations take."""
    return f"{input_bytes(plain()) + int(share * activations(plain()))}B"


@cache
def checkpointed(share: float) -> Graph:
    return Checkpoint(budget_of(share))(plain())


SHARES = (0.9, 0.75, 0.6)
TIGHT = 0.6


def values(graph: Graph, step: int) -> dict[str, HostValue]:
    batch = random_batch(LENGTHS, seed=step)
    return {
        **model_values(),
        **batch_values(batch),
        **random_values(graph, (Role.PARAM, Role.STATE)),
        "lr": np.asarray(0.01, np.float32),
        "step": np.asarray(step, np.int32),
    }


@pytest.mark.parametrize("share", SHARES)
def test_a_budget_is_kept_to_by_computing_again(share: float) -> None:
    graph = checkpointed(share)
    verify(graph)
    assert any(map(is_recomputed, graph.nodes))
    assert input_bytes(graph) + activations(graph) <= parse_size(budget_of(share))
    assert (graph.inputs, graph.outputs, graph.aliases) == (
        plain().inputs,
        plain().outputs,
        plain().aliases,
    )
    assert parse_graph(str(graph)) == graph


@pytest.mark.parametrize("share", SHARES)
def test_every_result_has_the_bits_it_had(share: float) -> None:
    before, after = plain(), checkpointed(share)
    given = values(before, 3)
    expected, found = evaluate(before, given), evaluate(after, given)
    for value in before.outputs:
        assert_same_bits(found[value.name], expected[value.name])


def train(graph: Graph, steps: int) -> dict[str, np.ndarray]:
    """Losses, and params and moments after some steps."""
    backend = NumpyBackend()
    first = values(graph, 1)
    kept = graph.inputs_of(Role.WEIGHT, Role.PARAM, Role.STATE)
    backend.load({value.name: first[value.name] for value in kept})
    program = backend.compile(graph)
    losses = []
    for step in range(1, steps + 1):
        given = values(graph, step)
        inputs = {v.name: np.asarray(given[v.name]) for v in graph.inputs_of(Role.INPUT)}
        losses.append(program.run(inputs)["loss"])
    trained = graph.inputs_of(Role.PARAM, Role.STATE)
    return {"losses": np.array(losses)} | {v.name: backend.read(v.name) for v in trained}


@pytest.mark.parametrize("share", SHARES)
def test_several_steps_train_the_same_params(share: float) -> None:
    expected, found = train(plain(), 4), train(checkpointed(share), 4)
    assert len(set(expected["losses"].tolist())) == 4
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_of_what_fits_only_what_costs_nothing_is_computed_again() -> None:
    slim = Checkpoint()(plain())
    assert Checkpoint(budget_of(1.0))(plain()) == slim
    again = [node for node in slim.nodes if is_recomputed(node)]
    assert again
    assert all(is_elementwise(node) for node in again)
    assert predicted_bytes(slim) <= predicted_bytes(plain())


def test_clean_up_does_not_undo_it() -> None:
    graph = checkpointed(TIGHT)
    cleaned = EliminateDeadCode()(MergeCommonSubexpressions()(graph))
    assert cleaned == graph


def test_a_clone_repeats_its_node_right_before_it_is_needed() -> None:
    graph = checkpointed(TIGHT)
    originals = {value.name: node for node in graph.nodes for value in node.outputs}
    for position, node in enumerate(graph.nodes):
        if not is_recomputed(node):
            continue
        original = originals[node.outputs[0].name.removesuffix(".re")]
        assert (node.op, node.attrs) == (original.op, original.attrs)
        assert node.scope == f"{original.scope}/recompute"
        stripped = tuple(value.name.removesuffix(".re") for value in node.inputs)
        assert stripped == tuple(value.name for value in original.inputs)
        reader = next(n for n in graph.nodes[position + 1 :] if set(n.inputs) & set(node.outputs))
        between = graph.nodes[position + 1 : graph.nodes.index(reader)]
        assert all(map(is_recomputed, between)), "it stands before the first that reads it"


def test_a_clone_that_reads_an_updated_param_is_refused() -> None:
    """Planted: a clone that reads an adapter stands behind the optimizer."""
    graph = checkpointed(TIGHT)
    params = set(graph.inputs_of(Role.PARAM))
    clone = next(n for n in graph.nodes if is_recomputed(n) and params & set(n.inputs))
    late = replace(clone, outputs=tuple(replace(v, name=f"{v.name}.late") for v in clone.outputs))
    with pytest.raises(GraphError, match=r"%.* is read after %.*\.new took its place"):
        verify(replace(graph, nodes=(*graph.nodes, late)))


def test_a_clone_that_differs_from_its_node_changes_bits() -> None:
    """Planted: the tests above notice a clone that computes something else."""
    graph = checkpointed(TIGHT)
    clone = next(n for n in graph.nodes if is_recomputed(n) and n.op == "mul")
    wrong = replace(clone, inputs=(clone.inputs[0], clone.inputs[0]))
    broken = replace(graph, nodes=tuple(wrong if n is clone else n for n in graph.nodes))
    verify(broken)
    given = values(graph, 3)
    expected, found = evaluate(graph, given), evaluate(broken, given)
    changed = [v for v in graph.outputs if not np.array_equal(found[v.name], expected[v.name])]
    assert changed


def test_a_budget_that_cannot_be_met_names_the_smallest_that_can() -> None:
    with pytest.raises(BitgraphError, match="a memory budget of 1KiB is too small") as caught:
        Checkpoint("1KiB")(plain())
    smallest = str(caught.value).rsplit(" ", 1)[-1]
    graph = Checkpoint(smallest)(plain())
    assert predicted_bytes(graph) <= parse_size(smallest)
    below = f"{predicted_bytes(graph) - 1}B"
    with pytest.raises(BitgraphError, match="the smallest that works is"):
        Checkpoint(below)(plain())


def test_it_is_not_applied_twice() -> None:
    with pytest.raises(GraphError, match="is checkpointed already"):
        Checkpoint(budget_of(TIGHT))(checkpointed(0.75))


def test_a_budget_is_a_size() -> None:
    with pytest.raises(BitgraphError, match="'much' is not a size in bytes; write one as 64MiB"):
        Checkpoint("much")(plain())
