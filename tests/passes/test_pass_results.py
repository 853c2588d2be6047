"""What passes do to the tiny model: results, purity, and how little is differentiated."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.ir import Graph, Role, Value
from bitgraph.graph.rewrite import with_inputs
from bitgraph.graph.tensors import HostValue
from bitgraph.graph.verify import verify
from bitgraph.models.bitnet.forward import loss_graph
from bitgraph.passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import PASSES, parse_pipeline
from graphs import PRETRAINING, TRAINING, staged
from op_cases import assert_same_bits
from tiny_model import CONFIG, batch_values, model_values, random_batch, random_values

BATCH = random_batch([4, 2, 5])
TOKENS = len(BATCH.tokens)


def values(graph: Graph) -> dict[str, HostValue]:
    schedule = {"lr": np.float32(0.01), "step": np.int32(3)}
    return {
        **model_values(),
        **batch_values(BATCH),
        **random_values(graph, (Role.PARAM, Role.STATE)),
        **{name: np.asarray(value) for name, value in schedule.items()},
    }


@cache
def results(stage: str) -> dict[str, HostValue]:
    graph = staged(TRAINING, TOKENS)[stage]
    return evaluate(graph, values(graph))


@pytest.mark.parametrize(("before", "after"), [("3-adamw", "4-cse"), ("4-cse", "5-dce")])
def test_cleaning_up_changes_no_bit(before: str, after: str) -> None:
    graphs = staged(TRAINING, TOKENS)
    assert len(graphs[after].nodes) <= len(graphs[before].nodes)
    assert graphs[after].outputs == graphs[before].outputs
    assert graphs[after].aliases == graphs[before].aliases
    for value in graphs[after].outputs:
        assert_same_bits(results(after)[value.name], results(before)[value.name])


@pytest.mark.parametrize("pipeline", [TRAINING, PRETRAINING])
def test_the_backward_pass_holds_no_dead_code(pipeline: str) -> None:
    graph = staged(pipeline, TOKENS)["2-grad"]
    assert EliminateDeadCode()(graph) == graph


def test_merging_undoes_the_doubling_of_every_node() -> None:
    """Each node gets a twin, and operands are taken from either at random."""
    graph = staged(TRAINING, TOKENS)["5-dce"]
    rng = np.random.default_rng(0)
    returned = set(graph.outputs)
    twins: dict[Value, Value] = {}
    nodes = []
    for node in graph.nodes:
        chosen = {value: twin for value, twin in twins.items() if rng.random() < 0.5}
        nodes.append(with_inputs(node, chosen))
        if not returned & set(node.outputs):
            names = {v: replace(v, name=f"{v.name}.twin") for v in node.outputs}
            twins |= names
            nodes.append(replace(with_inputs(node, chosen), outputs=tuple(names.values())))
    doubled = replace(graph, nodes=tuple(nodes))
    assert len(doubled.nodes) > 1.5 * len(graph.nodes)
    verify(doubled)
    assert MergeCommonSubexpressions()(doubled) == graph


def test_each_pass_keeps_what_the_graph_gave_before() -> None:
    for before, after in (("1-lora", "2-grad"), ("2-grad", "3-adamw")):
        for name in ("loss", "nll"):
            assert_same_bits(results(after)[name], results(before)[name])


def test_an_adapter_whose_b_is_zero_changes_nothing() -> None:
    graph = staged(TRAINING, TOKENS)["1-lora"]
    given = values(graph)
    for value in graph.inputs_of(Role.PARAM):
        if ".lora_B." in value.name:
            given[value.name] = np.zeros(value.type.shape, np.float32)
    base = evaluate(loss_graph(CONFIG, TOKENS), given)
    np.testing.assert_array_equal(evaluate(graph, given)["nll"], base["nll"])
    assert np.any(results("1-lora")["nll"] != base["nll"])


@pytest.mark.parametrize("seed", range(3))
def test_the_surrogate_is_close_to_the_quantized_model(seed: int) -> None:
    graph = PassManager(parse_pipeline("surrogate")).run(loss_graph(CONFIG, TOKENS))
    assert not any("q8" in str(v.type) for node in graph.nodes for v in node.outputs)
    given = {**model_values(seed=seed), **batch_values(BATCH)}
    quantized = np.asarray(evaluate(loss_graph(CONFIG, TOKENS), given)["nll"])
    smooth = np.asarray(evaluate(graph, given)["nll"])
    np.testing.assert_allclose(smooth, quantized, atol=0.5, rtol=0.1)
    assert np.any(smooth != quantized)


def test_double_precision_agrees_with_single() -> None:
    smooth = staged("lora,surrogate,promote", TOKENS)
    given = values(smooth["2-surrogate"])
    single = np.asarray(evaluate(smooth["2-surrogate"], given)["nll"])
    doubles = {
        name: v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
        for name, v in given.items()
    }
    double = np.asarray(evaluate(smooth["3-promote"], doubles)["nll"])
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", parse_pipeline(TRAINING + ",surrogate"), ids=lambda s: s.name)
def test_a_pass_is_a_pure_function(step: object) -> None:
    stages = list(staged(TRAINING, TOKENS).values())
    names = [part.split("{")[0] for part in ("lora", "grad", "adamw", "cse", "dce", "surrogate")]
    graph = stages[min(names.index(step.name), 4)]  # type: ignore[attr-defined]
    text = str(graph)
    first, second = step(graph), step(graph)  # type: ignore[operator]
    assert first == second
    assert str(graph) == text


@pytest.mark.parametrize("name", ["cse", "dce", "surrogate", "promote"])
def test_a_pass_that_has_done_its_work_changes_nothing_more(name: str) -> None:
    stages = staged("lora,surrogate,promote,grad,cse,dce", TOKENS)
    graph = PASSES[name]()(list(stages.values())[-1])
    assert PASSES[name]()(graph) == graph


def test_the_options_of_a_pass_are_its_fields() -> None:
    for name, kind in PASSES.items():
        assert kind.name == name
        with pytest.raises(AttributeError):
            kind().name = "other"
        assert kind() == kind()


# Only what leads to a param is differentiated


def backward_of(pipeline: str, op: str) -> list[str]:
    """Scopes of an op in the backward pass."""
    graph = list(staged(pipeline, TOKENS).values())[-1]
    return [node.scope for node in graph.nodes if node.op == op and "grad" in node.scope]


@pytest.mark.parametrize("cleaned", ["", ",cse,dce"])
def test_frozen_weights_before_the_first_adapter_are_not_differentiated(cleaned: str) -> None:
    """Nothing that is trained feeds the q, k and v products of layer 0."""
    graph = list(staged(f"lora,grad{cleaned}", TOKENS).values())[-1]
    transposed = [n.inputs[1].name for n in graph.nodes if n.op == "ternary_matmul_t"]
    missing = {f"layers.0.self_attn.{name}_proj.weight" for name in "qkv"}
    assert set(transposed) == {
        v.name for v in graph.inputs_of(Role.WEIGHT) if "_proj" in v.name
    } - (missing)
    assert len(transposed) == 7 * CONFIG.num_hidden_layers - 3


def test_only_what_stands_behind_the_last_adapter_is_differentiated() -> None:
    pipeline = 'lora{targets="layers.1.mlp.down_proj"},grad,cse,dce'
    for op in ("ternary_matmul_t", "rope", "attention_grad", "scatter_add_rows", "relu"):
        assert backward_of(pipeline, op) == []
    assert backward_of(pipeline, "rms_norm_grad") == ["norm/grad"]
    assert backward_of(pipeline, "linear_cross_entropy_grad") == ["loss/grad"]
    assert backward_of(pipeline, "contract_rows") == ["layers.1/mlp/grad"] * 2


def test_no_frozen_weight_gets_a_gradient() -> None:
    pipeline = "lora,grad,cse,dce"
    assert backward_of(pipeline, "rms_norm_weight_grad") == []
    assert backward_of(pipeline, "scatter_add_rows") == []
    assert Counter(backward_of(pipeline, "attention_grad")) == {
        f"layers.{layer}/self_attn/grad": 1 for layer in range(CONFIG.num_hidden_layers)
    }
    # two for each adapter, A and B
    count = len(backward_of(pipeline, "contract_rows"))
    assert count == 2 * 7 * CONFIG.num_hidden_layers


def test_every_node_of_the_backward_pass_says_so() -> None:
    graphs = staged("lora,grad", TOKENS)
    forward = len(graphs["1-lora"].nodes)
    joint = graphs["2-grad"].nodes
    assert joint[:forward] == graphs["1-lora"].nodes
    assert all(node.scope.split("/")[-1] == "grad" for node in joint[forward:] if node.op != "add")
