"""The node that is wrong is named, and no other: planted kernels, passes and schedules."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitgraph.backends.divergence import Report, Way, compare, node_graph, on_backend
from bitgraph.backends.equivalence import TOLERANCES, op_graph, run_graph, tolerance_of
from bitgraph.backends.numpy.backend import NumpyBackend, NumpyProgram
from bitgraph.backends.numpy.evaluate import apply
from bitgraph.backends.replay import GRAPH, VALUES, replay, saved
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph, Node, Role, Value, sorted_attrs
from bitgraph.graph.ops import op_def
from bitgraph.graph.rewrite import map_values
from bitgraph.graph.tensors import HostValue, Quantized
from bitgraph.graph.types import GraphError, tensor
from bitgraph.models.training.sample import sample_state
from bitgraph.passes.cleanup import MergeCommonSubexpressions
from bitgraph.passes.fuse.fuse import Fuse
from graphs import read, training_graph
from tiny_model import batch_values, model_values, random_batch


class Perturbed(NumpyBackend):
    """Results of one op are off by a factor, in graphs that a test asks for."""

    def __init__(self, op: str, factor: float, where: Callable[[Graph], bool]) -> None:
        super().__init__(threads=1)
        self.op, self.factor, self.where = op, factor, where

    def compile(self, graph: Graph) -> NumpyProgram:
        program = super().compile(graph)
        if any(node.op == self.op for node in graph.nodes) and self.where(graph):
            true = program.run
            program.run = lambda inputs: {  # type: ignore[method-assign]
                name: self._off(value) for name, value in true(inputs).items()
            }
        return program

    def _off(self, value: Any) -> Any:
        if isinstance(value, Quantized):
            return Quantized(value.codes, value.scale * np.float32(self.factor))
        return (value * value.dtype.type(self.factor)).astype(value.dtype)


@cache
def step() -> tuple[Graph, dict[str, HostValue]]:
    """A training step of the tiny model."""
    batch = random_batch([7, 5])
    graph = training_graph(len(batch.tokens))
    values = {**model_values(), **batch_values(batch), **sample_state(graph, 0)}
    return graph, {**values, "lr": np.array(1e-3, np.float32), "step": np.array(1, np.int32)}


def against(backend: NumpyBackend) -> Report:
    graph, values = step()
    return compare(Way(graph, apply), Way(graph, on_backend(backend)), values)


def test_a_backend_that_is_right() -> None:
    report = against(NumpyBackend(threads=1))
    graph, _ = step()
    assert report.compared == sum(len(node.outputs) for node in graph.nodes)
    assert (report.wrong, report.wrong_ops) == (None, {})
    assert set(report.outputs) == {value.name for value in graph.outputs}


@pytest.mark.parametrize("op", sorted({node.op for node in training_graph(12).nodes}))
def test_a_wrong_kernel_is_named(op: str) -> None:
    """Every node of that op is counted, the first is shown, and no other is blamed."""
    graph, _ = step()
    report = against(Perturbed(op, 1.01, lambda graph: True))
    affected = [node for node in graph.nodes if node.op == op]
    assert report.wrong is not None
    assert report.wrong.node == affected[0]
    assert report.wrong_ops == {op: len(affected)}
    assert graph.nodes[report.wrong.position] == affected[0]
    assert report.wrong.error == pytest.approx(0.01, rel=1e-3)


def test_errors_that_add_up_are_told_from_a_wrong_node() -> None:
    """Behind a wrong node values drift, but on equal operands their nodes are right."""
    graph, _ = step()
    report = against(Perturbed("rope", 1.01, lambda graph: True))
    assert report.drifted is not None
    assert report.drifted.node == next(node for node in graph.nodes if node.op == "rope")
    values = {name: value for name, value in report.outputs.items() if name == "loss"}
    right = against(NumpyBackend(threads=1)).outputs
    assert values["loss"] != right["loss"]


def test_an_allowed_error_that_grows_is_no_wrong_node() -> None:
    """silu is off by less than it may; a difference of two near numbers makes much of that."""
    graph = read(
        "graph @g {\n  input %x: f32[4]\n  input %y: f32[4]\n  %s: f32[4] = silu(%x)\n"
        "  %d: f32[4] = sub(%s, %y)\n  return %d\n}\n"
    )
    x = np.array([1, 2, 3, 4], np.float32)
    silu = op_def("silu").eval(x)
    values: dict[str, HostValue] = {"x": x, "y": silu * np.float32(1 - 1e-4)}

    def slightly_off(node: Node, operands: tuple[HostValue, ...]) -> tuple[HostValue, ...]:
        (result,) = apply(node, operands)
        assert isinstance(result, np.ndarray)
        return (result * np.float32(1 + 2e-5 * (node.op == "silu")),)

    ways = (Way(graph, apply), Way(graph, slightly_off))
    report = compare(*ways, values)
    assert report.wrong is None
    assert report.drifted is not None
    assert report.drifted.node.op == "sub"
    report = compare(*ways, values, exact=True)
    assert report.wrong is not None
    assert report.drifted is not None
    assert (report.wrong_ops, report.drifted.position) == ({"silu": 1}, 0)


def test_a_wrong_schedule_shows_in_the_whole_program() -> None:
    """Nodes alone are right there; only the program of many nodes is not."""
    graph, values = step()
    backend = Perturbed("linear_cross_entropy", 1.2, lambda graph: len(graph.nodes) > 1)
    report = compare(Way(graph, apply), Way(graph, on_backend(backend)), values)
    assert report.wrong is None
    held = {v.name: values[v.name] for v in graph.inputs_of(Role.WEIGHT, Role.PARAM, Role.STATE)}
    inputs = {v.name: values[v.name] for v in graph.inputs_of(Role.INPUT)}
    whole = run_graph(backend, graph, held, inputs)
    assert float(np.asarray(whole["loss"])) == pytest.approx(
        1.2 * float(np.asarray(report.outputs["loss"])), rel=1e-4
    )


# Before and after a pass


def both(before: Graph, after: Graph, exact: bool = True) -> Report:
    return compare(Way(before, apply), Way(after, apply), step()[1], exact)


def test_a_pass_that_keeps_every_value() -> None:
    graph, _ = step()
    doubled = replace(graph, nodes=tuple(n for node in graph.nodes for n in (node, _again(node))))
    report = both(graph, MergeCommonSubexpressions()(doubled))
    assert (report.wrong, report.drifted) == (None, None)


def _again(node: Node) -> Node:
    return replace(node, outputs=tuple(Value(f"{v.name}.re", v.type) for v in node.outputs))


def test_recomputed_values_are_compared_with_those_they_repeat() -> None:
    graph, _ = step()
    doubled = replace(graph, nodes=tuple(n for node in graph.nodes for n in (node, _again(node))))
    report = both(graph, doubled)
    assert report.wrong is None
    assert report.compared == 2 * sum(len(node.outputs) for node in graph.nodes)


def test_a_pass_that_changes_a_node() -> None:
    graph, _ = step()
    scales = [k for k, node in enumerate(graph.nodes) if node.op == "scale"]
    nodes = list(graph.nodes)
    for k in scales[2], scales[5]:
        factor = nodes[k].attributes["factor"]
        nodes[k] = replace(nodes[k], attrs=sorted_attrs({"factor": factor * 1.001}))
    report = both(graph, replace(graph, nodes=tuple(nodes)))
    assert report.wrong is not None
    assert (report.wrong.position, report.wrong.node) == (scales[2], nodes[scales[2]])
    assert report.wrong_ops == {"scale": 2}


def test_a_wrong_fused_node() -> None:
    """Results of a fused node are held against those of the nodes that it replaced."""
    graph, _ = step()
    fused = Fuse()(graph)
    report = both(graph, fused, exact=False)
    assert (report.wrong, report.drifted) == (None, None)
    assert report.compared == sum(len(node.outputs) for node in fused.nodes)
    place, node = next(
        (k, node)
        for k, node in enumerate(fused.nodes)
        if node.op == "fused" and "squared_relu(" in node.attributes["body"]
    )
    body = node.attributes["body"].replace("squared_relu(", "relu(")
    attrs = sorted_attrs({**node.attributes, "body": body})
    nodes = (*fused.nodes[:place], replace(node, attrs=attrs), *fused.nodes[place + 1 :])
    report = both(graph, replace(fused, nodes=nodes), exact=False)
    assert report.wrong is not None
    assert report.wrong.position == place
    assert report.wrong_ops == {f"fused {node.attributes['pattern']}": 1}


def test_a_wrong_node_of_new_values_is_seen_at_the_next_known_value() -> None:
    """What a pass adds has no counterpart; it is run on its own results until one has."""
    before = read(
        "graph @g {\n  input %a: f32[3]\n  input %b: f32[3]\n  %s: f32[3] = add(%a, %b)\n"
        "  %y: f32[3] = relu(%s)\n  return %y\n}\n"
    )
    after = read(
        "graph @g {\n  input %a: f32[3]\n  input %b: f32[3]\n"
        "  %half: f32[3] = scale(%b) {factor=0.5}\n  %more: f32[3] = add(%a, %half)\n"
        "  %s: f32[3] = add(%more, %half)\n  %y: f32[3] = relu(%s)\n  return %y\n}\n"
    )
    values: Mapping[str, HostValue] = {
        "a": np.array([1, 2, 3], np.float32),
        "b": np.array([4, 5, 6], np.float32),
    }
    right = compare(Way(before, apply), Way(after, apply), values)
    assert (right.wrong, right.compared) == (None, 2)
    wrong = replace(
        after, nodes=(replace(after.nodes[0], attrs=(("factor", 0.25),)), *after.nodes[1:])
    )
    report = compare(Way(before, apply), Way(wrong, apply), values)
    assert report.wrong is not None
    assert report.wrong.node.outputs[0].name == "s"
    assert report.wrong_ops == {"add": 1}
    assert report.wrong.given[0] == pytest.approx(np.array([3, 4.5, 6]))
    assert report.wrong.wanted[0] == pytest.approx(np.array([5, 7, 9]))


def test_values_of_another_type_are_no_partners() -> None:
    before = read("graph @g {\n  input %x: f32[2,2]\n  %y: f32[2,2] = relu(%x)\n  return %y\n}\n")
    after = read(
        "graph @g {\n  input %x: f32[2,2]\n  %y: f32[2,1,2] = reshape(%x) {row=(1, 2)}\n"
        "  return %y\n}\n"
    )
    report = compare(Way(before, apply), Way(after, apply), {"x": np.ones((2, 2), np.float32)})
    assert (report.compared, report.wrong) == (0, None)


def test_every_input_of_both_graphs_needs_a_value() -> None:
    graph, values = step()
    for name in ("tokens", "lr"):
        rest = {key: value for key, value in values.items() if key != name}
        with pytest.raises(GraphError, match=f"no value is given for the input %{name}"):
            compare(Way(graph, apply), Way(graph, apply), rest)
    with pytest.raises(GraphError, match="%lr is given as"):
        compare(Way(graph, apply), Way(graph, apply), {**values, "lr": np.array(1, np.int32)})


@pytest.mark.parametrize("reorder", [False, True])
def test_values_are_freed_after_their_last_use(reorder: bool) -> None:
    """Comparing a long chain keeps a few values, not all; a pass may have moved nodes too."""
    lines = ["graph @chain {", "  input %x0: f32[8]"]
    lines += [f"  %x{k + 1}: f32[8] = relu(%x{k})" for k in range(40)]
    graph = read("\n".join([*lines, "  return %x40", "}"]) + "\n")
    alive = most = 0

    def freed() -> None:
        nonlocal alive
        alive -= 1

    def watched(node: Node, operands: tuple[HostValue, ...]) -> tuple[HostValue, ...]:
        nonlocal alive, most
        (result,) = apply(node, operands)
        weakref.finalize(result, freed)
        alive += 1
        most = max(most, alive)
        return (result,)

    first = graph
    if reorder:  # another name for every value but the last
        first = map_values(
            graph, {v: Value(f"old.{v.name}", v.type) for n in graph.nodes[:-1] for v in n.outputs}
        )
    values = {"x0": np.ones(8, np.float32)}
    report = compare(Way(first, watched), Way(graph, watched), values)
    assert report.compared == (1 if reorder else 40)
    assert 0 < most <= 12


# Tolerances, and a node saved for later


def test_the_tolerance_of_a_fused_node_is_the_sum_along_its_body() -> None:
    body = read(
        "graph @f {\n  input %x: f32[2,2]\n  input %w: f32[2]\n"
        "  %n: f32[2,2] = rms_norm(%x, %w) {eps=1e-05}\n  %q: q8[2,2] = quantize(%n)\n"
        "  return %q\n}\n"
    )
    inputs = tuple(item.value for item in body.inputs)
    node = Node("fused", inputs, body.outputs, sorted_attrs({"body": str(body), "pattern": "n"}))
    assert tolerance_of(node) == TOLERANCES["rms_norm"] + TOLERANCES["quantize"]
    assert tolerance_of(body.nodes[0]) == TOLERANCES["rms_norm"]


@pytest.mark.parametrize("op", ["ternary_matmul", "quantize", "attention", "adamw"])
def test_a_saved_node_can_be_run_again(op: str, tmp_path: Path) -> None:
    report = against(Perturbed(op, 1.01, lambda graph: True))
    assert report.wrong is not None
    text, values = saved(report.wrong)
    (tmp_path / GRAPH).write_text(text)
    (tmp_path / VALUES).write_bytes(values)
    assert text == str(node_graph(report.wrong.node))
    assert set(replay(tmp_path).values()) == {0.0}
    assert max(replay(tmp_path, NumpyBackend(threads=1)).values()) <= TOLERANCES[op]
    again = replay(tmp_path, Perturbed(op, 1.01, lambda graph: True))
    assert max(again.values()) == pytest.approx(report.wrong.error, rel=1e-6)


@pytest.mark.parametrize("damage", ["missing", "text", "values", "names"])
def test_a_folder_without_a_saved_node(damage: str, tmp_path: Path) -> None:
    graph = op_graph("relu", [tensor("f32", 2)], {})
    (tmp_path / GRAPH).write_text("nothing" if damage == "text" else str(graph))
    if damage == "values":
        (tmp_path / VALUES).write_bytes(b"nothing")
    elif damage != "missing":
        np.savez(tmp_path / VALUES, other=np.zeros(1))
    with pytest.raises(BitgraphError):
        replay(tmp_path)
