"""Choosing tokens on Vulkan against NumPy: the same bits, so the same tokens.

Only rounding may make a difference: where two scores are equal up to it, or where the probability
that top_p stops at is. Such borderline rows are known beforehand and left out.
"""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.random import philox, unit_interval
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.graph.types import tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import fixed_cases, one_op_graph
from vulkan_cases import run_on_device, simulate, values_of

SAMPLE, PENALIZE = OPS["sample"], OPS["penalize"]
ROUNDING = 1e-5
"""How far sums of probabilities, and scores of which the larger wins, may be off."""
ROWS, VOCABULARY = 4, 5000


def sample_graph(rows: int, vocabulary: int) -> Graph:
    b = GraphBuilder("sample")
    types = {
        "logits": tensor("f32", rows, vocabulary),
        "temperature": tensor("f32"),
        "top_k": tensor("i32"),
        "top_p": tensor("f32"),
        "reach": tensor("f32"),
        "seed": tensor("u32"),
        "positions": tensor("i32", rows),
    }
    inputs = [b.add_input(name, type, Role.INPUT) for name, type in types.items()]
    return b.finish((b.op("sample", *inputs, name="ids"),))


def sample_values(
    logits: Array,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    reach: float = -1.0,
) -> dict[str, HostValue]:
    return {
        "logits": logits.astype(np.float32),
        "temperature": np.array(temperature, np.float32),
        "top_k": np.array(top_k, np.int32),
        "top_p": np.array(top_p, np.float32),
        "reach": np.array(reach, np.float32),
        "seed": np.array(seed, np.uint32),
        "positions": np.arange(7, 7 + len(logits), dtype=np.int32),
    }


def borderline(values: dict[str, HostValue], row: int) -> bool:
    """Whether rounding may decide which token a row gets."""
    temperature, top_p = float(values["temperature"]), float(values["top_p"])
    if temperature <= 0:
        return False
    z = values["logits"][row].astype(np.float64) / temperature
    order = np.argsort(-z, kind="stable")
    top_k = int(values["top_k"])
    if top_k > 0:
        order = order[:top_k]
    p = np.exp(z[order] - z[order[0]])
    before = (np.cumsum(p) - p) / p.sum()
    margin = ROUNDING if top_p < 1 else 0
    surely, perhaps = before < top_p - margin, before < top_p + margin
    surely[0] = perhaps[0] = True
    words = philox((order, int(values["positions"][row]), 0, 0), int(values["seed"]))[0]
    if values["reach"] >= 0:  # a subtraction: no rounding to allow for
        logits = values["logits"][row]
        near = ~(logits.max() - logits[order] > values["reach"])
        surely, perhaps = surely & near, perhaps & near
    scores = z[order] - np.log(-np.log(unit_interval(words).astype(np.float64)))
    best = np.where(surely, scores, -np.inf).argmax()
    rivals = np.flatnonzero(perhaps & (np.arange(len(order)) != best))
    reach = ROUNDING * (1 + np.abs(z).max())
    return bool(np.any(scores[rivals] > scores[best] - reach))


def assert_same_tokens(
    graph: Graph, given: dict[str, HostValue], values: dict[str, HostValue]
) -> int:
    """Compares all rows that are not borderline; returns how many."""
    ((name, expected),) = evaluate(graph, values).items()
    assert given[name].dtype == np.int32
    clear = [row for row in range(len(expected)) if not borderline(values, row)]
    np.testing.assert_array_equal(given[name][clear], expected[clear])
    return len(clear)


def by_name(graph: Graph, values: dict[str, HostValue]) -> dict[str, HostValue]:
    names = ("logits", "temperature", "top_k", "top_p", "reach", "seed", "positions")
    return dict(zip(names, (values[i.value.name] for i in graph.inputs), strict=True))


@pytest.mark.parametrize(("op", "case"), fixed_cases([PENALIZE]))
def test_penalties_are_the_same_bits(op: OpDef, case: Case) -> None:
    graph = one_op_graph(op, case)
    values = values_of(graph, case, 0)
    (expected,) = evaluate(graph, values).values()
    for results in (simulate(graph, values, seed=0), run_on_device(graph, values)):
        (result,) = results.values()
        np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize(("op", "case"), fixed_cases([SAMPLE]))
def test_planned(op: OpDef, case: Case) -> None:
    graph = one_op_graph(op, case)
    for seed in range(3):
        values = values_of(graph, case, seed)
        (given,) = simulate(graph, values, seed=seed).values()
        (expected,) = evaluate(graph, values).values()
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize(("op", "case"), fixed_cases([SAMPLE]))
def test_on_device(op: OpDef, case: Case) -> None:
    rows, vocabulary = case.operands[0].type.shape
    graph = sample_graph(rows, vocabulary)
    for seed in range(3):
        values = by_name(one_op_graph(op, case), values_of(one_op_graph(op, case), case, seed))
        assert_same_tokens(graph, run_on_device(graph, values), values)


@pytest.mark.parametrize("shared_memory", [16384, 32768])
def test_filters_on_device(shared_memory: int) -> None:
    rng = np.random.default_rng(0)
    graph = sample_graph(ROWS, VOCABULARY)
    limits = Limits(shared_memory=shared_memory)
    clear = 0
    for top_k in (0, 1, 2, 40, 4999, 5000, 6000):
        for top_p in (-1.0, 0.0, 0.1, 0.5, 0.9, 0.999, 1.0, 2.0):
            logits = rng.standard_normal((ROWS, VOCABULARY)) * rng.choice([0.01, 1, 8])
            seed = int(rng.integers(2**32))
            values = sample_values(logits, rng.choice([0.1, 0.7, 1.5]), top_k, top_p, seed)
            clear += assert_same_tokens(graph, run_on_device(graph, values, limits), values)
    assert clear > 0.9 * 7 * 8 * ROWS


LOGITS = st.sampled_from(["spread", "ties", "zeros", "one", "masked", "negative", "huge"])


def logits_of(kind: str, rng: np.random.Generator) -> Array:
    shape = (ROWS, VOCABULARY)
    z = rng.standard_normal(shape)
    match kind:
        case "ties":
            z = np.round(z)
        case "zeros":
            z = np.copysign(0.0, z)
        case "one":
            z = np.where(np.arange(VOCABULARY) == 4321, 30.0, z)
        case "masked":
            z = np.where(rng.random(shape) < 0.9, -np.inf, z)
        case "negative":
            z = z - 1000
        case "huge":
            z = z * 1e30
    return z


@settings(max_examples=40)
@given(
    kind=LOGITS,
    temperature=st.sampled_from([0.0, -1.0, 1e-3, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 100, 1000, 5000]),
    top_p=st.floats(0, 1.0625, width=16),
    reach=st.sampled_from([-1.0, 0.0, 0.25, 3.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_logits_on_device(
    kind: str, temperature: float, top_k: int, top_p: float, reach: float, seed: int
) -> None:
    logits = logits_of(kind, np.random.default_rng(seed))
    graph = sample_graph(ROWS, VOCABULARY)
    values = sample_values(logits, temperature, top_k, top_p, seed, reach)
    with np.errstate(all="ignore"):
        assert_same_tokens(graph, run_on_device(graph, values), values)


def test_large_vocabulary_on_device() -> None:
    vocabulary = 128256
    rng = np.random.default_rng(3)
    graph = sample_graph(1, vocabulary)
    for temperature, top_k, top_p, reach in (
        (0.0, 0, 1.0, 1.0), (0.8, 50, 0.9, -1.0), (1.2, 0, 0.7, -1.0), (1.2, 0, 1.0, 2.0),
    ):  # fmt: skip
        logits = 2 * rng.standard_normal((1, vocabulary))
        values = sample_values(logits, temperature, top_k, top_p, 99, reach)
        assert not borderline(values, 0)
        assert assert_same_tokens(graph, run_on_device(graph, values), values) == 1
