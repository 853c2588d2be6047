"""Clipping and AdamW on Vulkan against NumPy: planned and shuffled, and on a device."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.backends.vulkan.schedule import Barrier
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import FAMILIES, OPS
from bitgraph.graph.ops.draws import operand
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.graph.types import tensor
from bitgraph.passes.optimizer import SOUND, AdamW
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import assert_close, assert_same_bits, fixed_cases, one_op_graph
from vulkan_cases import (
    FOLDED,
    RUNS,
    SPLIT,
    Run,
    check_case,
    check_random_cases,
    in_place,
    run_on_device,
    values_of,
)

FloatArray: TypeAlias = npt.NDArray[np.float32]

FAMILY = FAMILIES["optimizer"]
TOLERANCE = 1e-6
"""Beside the largest element."""
MAX = float(np.finfo(np.float32).max)
IN_PLACE = ((0, 0), (1, 2), (2, 3))
"""Results of adamw and the operands whose places they take."""


def assert_right(graph: Graph, values: dict[str, HostValue], outputs: dict[str, HostValue]) -> None:
    for name, want in evaluate(graph, values).items():
        assert_close(outputs[name], want, TOLERANCE)


@pytest.mark.parametrize("limits", [Limits(), FOLDED, SPLIT], ids=["large", "folded", "split"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("op", "case"), fixed_cases(FAMILY))
def test_fixed_cases(op: OpDef, case: Case, run: Run, limits: Limits) -> None:
    check_case(op, case, run, assert_right, limits)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("op", FAMILY, ids=lambda op: op.name)
def test_random_cases(op: OpDef, run: Run) -> None:
    check_random_cases(op, run, assert_right, 3)


# global_norm


def norm_of(run: Run, *gradients: Array) -> float:
    """What the op gives, in relation to f64's where it is finite."""
    operands = tuple(operand("f32", *g.shape) for g in gradients)
    graph = one_op_graph(OPS["global_norm"], Case(operands))
    values = {f"x{k}": np.asarray(g, np.float32) for k, g in enumerate(gradients)}
    (norm,) = run(graph, values).values()
    (want,) = evaluate(graph, values).values()
    assert np.isnan(norm) == np.isnan(want)
    if np.isfinite(want):
        np.testing.assert_allclose(norm, want, rtol=5e-7, atol=1e-38)
    return float(np.asarray(norm))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("exponent", [-37, -30, -19, 0, 19, 30, 37])
def test_norms_of_gradients_of_all_sizes(exponent: int, run: Run) -> None:
    rng = np.random.default_rng(0)
    some = rng.standard_normal((7, 60)).astype(np.float32) * np.float32(10.0**exponent)
    assert norm_of(run, some, some[:1], some[0]) > 0


@pytest.mark.parametrize("run", RUNS)
def test_norms_of_gradients_of_very_different_sizes(run: Run) -> None:
    """Each alone would overflow or vanish; beside the largest the smallest does not count."""
    tiny, huge = np.full(3, 1e-30, np.float32), np.full(4, 1e30, np.float32)
    assert norm_of(run, tiny, huge) == pytest.approx(2e30, rel=1e-6)
    assert norm_of(run, tiny, np.float32([2e-30])) == pytest.approx(7**0.5 * 1e-30, rel=1e-6)
    assert norm_of(run, np.concatenate([tiny, huge])) == pytest.approx(2e30, rel=1e-6)
    assert norm_of(run, np.float32([1e-20, 3e-4]), np.float32([4e-4])) == pytest.approx(5e-4)


@pytest.mark.parametrize("run", RUNS)
def test_norms_at_the_ends(run: Run) -> None:
    assert norm_of(run, np.zeros((3, 5), np.float32), np.zeros(1, np.float32)) == 0
    assert norm_of(run, np.float32([MAX])) == pytest.approx(MAX, rel=1e-6)
    assert norm_of(run, np.full(9, MAX, np.float32), np.float32([1])) == MAX


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 99, 100, 101])
def test_one_number_that_is_not_finite_makes_the_norm_nan(place: int, bad: float, run: Run) -> None:
    flat = np.full(102, 1e-3, np.float32)
    flat[place] = bad
    assert np.isnan(norm_of(run, flat[:100].reshape(10, 10), flat[100:]))


@settings(max_examples=12, derandomize=True, deadline=None)
@given(st.lists(st.floats(width=32), min_size=12, max_size=12))
def test_norms_of_any_numbers(numbers: list[float]) -> None:
    some = np.array(numbers, np.float32)
    for run in RUNS:
        norm_of(run.values[0], some[:4].reshape(2, 2), some[4:])  # type: ignore[arg-type]


def test_gradients_are_summed_side_by_side() -> None:
    """As many to a dispatch as it binds, and one barrier for all."""
    case = Case(tuple(operand("f32", 16, 64) for _ in range(30)))
    commands = make_plan(one_op_graph(OPS["global_norm"], case), Limits()).schedule.commands
    assert [k for k, c in enumerate(commands) if isinstance(c, Barrier)] == [2]
    assert len(commands) == 4


# clip_factor


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("norm", [0.0, 1e-30, 0.5, 1.0, 3.0, 1e30, MAX, np.nan])
def test_clip_factors(norm: float, max_norm: float, run: Run) -> None:
    graph = one_op_graph(OPS["clip_factor"], Case((operand("f32"),), {"max_norm": max_norm}))
    values: dict[str, HostValue] = {"x0": np.asarray(norm, np.float32)}
    (want,), (got,) = evaluate(graph, values).values(), run(graph, values).values()
    np.testing.assert_allclose(got, want, rtol=5e-7, atol=1e-38)


# adamw


def adamw(
    gradient: FloatArray,
    *,
    clip: float = 1.0,
    lr: float = 1e-3,
    step: int = 1,
    weight_decay: float = 0.01,
    moments: tuple[float, float] = (0.0, 0.0),
) -> tuple[Graph, dict[str, HostValue]]:
    """One step on parameters 1, -1, 1, ..., in place."""
    case = OPS["adamw"].cases.make(1, gradient.size, step)
    case.attrs["weight_decay"] = weight_decay
    graph = in_place(one_op_graph(OPS["adamw"], case), *IN_PLACE)
    ones = np.ones((1, gradient.size), np.float32)
    values: dict[str, HostValue] = {
        "x0": ones * np.where(np.arange(gradient.size) % 2, -1, 1).astype(np.float32),
        "x1": gradient[None],
        "x2": ones * np.float32(moments[0]),
        "x3": ones * np.float32(moments[1]),
        "x4": np.asarray(clip, np.float32),
        "x5": np.asarray(lr, np.float32),
        "x6": np.asarray(step, np.int32),
    }
    return graph, values


SIZES = np.float32([0, -0.0, 1e-30, -1e-30, 1e-15, -1.0, 1e4, 1e15, -1e19, 1e20, 1e30, -1e30, MAX])


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("lr", [0.0, 1e-30, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("count", [12, 13])
def test_gradients_of_all_sizes_leave_everything_finite(count: int, lr: float, run: Run) -> None:
    graph, values = adamw(SIZES[:count], lr=lr)
    outputs, wanted = run(graph, values), evaluate(graph, values)
    for name, want in wanted.items():
        got = np.asarray(outputs[name])
        assert np.all(np.isfinite(got))
        cancelled = 2e-7 if name == graph.outputs[0].name else 1e-37
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=cancelled)
    assert float(np.max(np.asarray(outputs[graph.outputs[2].name]))) == MAX


@pytest.mark.parametrize("run", RUNS)
def test_a_frozen_second_moment_thaws(run: Run) -> None:
    """A v held at the largest float comes down again by beta2 a step."""
    graph, values = adamw(np.zeros(4, np.float32), step=100, moments=(1e30, MAX))
    outputs = run(graph, values)
    np.testing.assert_allclose(outputs[graph.outputs[2].name], 0.999 * MAX, rtol=1e-6)
    for value in outputs.values():
        assert np.all(np.isfinite(np.asarray(value)))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("lr", [0.0, 1e-3])
@pytest.mark.parametrize("count", [8, 13])
def test_nan_as_clip_changes_nothing(count: int, lr: float, run: Run) -> None:
    gradient = np.full(count, np.nan, np.float32)
    graph, values = adamw(gradient, clip=np.nan, lr=lr, moments=(0.5, 0.25))
    outputs = run(graph, values)
    for (result, place), output in zip(IN_PLACE, graph.outputs, strict=True):
        assert graph.outputs[result] is output
        assert_same_bits(outputs[output.name], values[f"x{place}"])


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("step", [-1, 0, 1, 2, 5, 499, 694, 5000, 10**6, 2**31 - 1])
def test_the_bias_corrections_of_any_step(step: int, run: Run) -> None:
    """From moments of a constant gradient of 1 the parameter moves by just lr."""
    count = max(step, 1)
    before = 1 - 0.9 ** (count - 1), 1 - 0.999 ** (count - 1)
    gradient = np.ones(4, np.float32)
    graph, values = adamw(gradient, lr=0.5, step=step, weight_decay=0.0, moments=before)
    outputs = run(graph, values)
    moved = np.asarray(values["x0"]) - np.asarray(outputs[graph.outputs[0].name])
    np.testing.assert_allclose(moved, 0.5, rtol=3e-6)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.9, 0.95), (0.5, 0.9999)])
def test_betas(betas: tuple[float, float], run: Run) -> None:
    case = OPS["adamw"].cases.make(3, 3, 2)
    case.attrs.update(beta1=betas[0], beta2=betas[1])
    graph = one_op_graph(OPS["adamw"], case)
    values = values_of(graph, case)
    assert_right(graph, values, run(graph, values))


@pytest.mark.parametrize("limits", [Limits(), SPLIT], ids=["large", "split"])
def test_updates_in_place_copy_nothing(limits: Limits) -> None:
    case = OPS["adamw"].cases.make(16, 2560, 7)
    graph = in_place(one_op_graph(OPS["adamw"], case), *IN_PLACE)
    commands = make_plan(graph, limits).schedule.commands
    kernels = {getattr(command, "kernel", "barrier") for command in commands}
    assert kernels <= {"adamw", "adamw+3"}
    values = values_of(graph, case)
    assert_right(graph, values, run_on_device(graph, values, limits))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("bad", [False, True], ids=["finite", "infinite"])
def test_the_pass_adamw_as_a_whole(bad: bool, run: Run) -> None:
    b = GraphBuilder("step")
    shapes = {"a": (16, 40), "b": (9, 3), "c": (5,)}
    gradients = []
    for name, shape in shapes.items():
        b.add_input(name, tensor("f32", *shape), Role.PARAM)
        g = b.add_input(f"{name}.g", tensor("f32", *shape), Role.INPUT)
        gradients.append(b.op("scale", g, factor=3.0, name=f"{name}.grad"))
    loss = b.add_input("loss", tensor("f32"), Role.INPUT)
    graph = AdamW(weight_decay=0.1, max_norm=2.0)(b.finish((loss, *gradients)))
    rng = np.random.default_rng(0)
    values: dict[str, HostValue] = {
        item.value.name: np.abs(rng.standard_normal(item.value.type.shape)).astype(np.float32)
        for item in graph.inputs
    }
    values |= {"lr": np.asarray(0.01, np.float32), "step": np.asarray(3, np.int32)}
    values[SOUND] = np.ones((), np.int32)
    if bad:
        values["b.g"] = np.full((9, 3), 2e38, np.float32)
    with np.errstate(over="ignore"):
        wanted = evaluate(graph, values)
    outputs = run(graph, values)
    assert np.isnan(np.asarray(outputs["grad_norm"])) == bad
    for name, want in wanted.items():
        if name == f"{SOUND}.new":
            assert np.asarray(outputs[name]) == (not bad)
        elif bad and name != "grad_norm":
            assert_same_bits(outputs[name], values[name.removesuffix(".new")])
        elif not bad:
            assert_close(outputs[name], want, TOLERANCE)
