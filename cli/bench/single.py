"""Single kernels at the shapes of a model, each timed on operands that no cache holds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...backends.vulkan.lowering import label_of
from ...backends.vulkan.query import select_device
from ...graph.build import GraphBuilder
from ...graph.ir import Graph, Role, Value
from ...graph.tensors import HostValue, Quantized
from ...graph.types import DType, TensorType, tensor
from ...models.bitnet.checkpoint import load_checkpoint
from ...models.bitnet.config import BitNetConfig
from ...models.bitnet.presets import random_ternary
from .ceilings import ceilings_of
from .instruments import ProfilingDevice, WatchedBackend, describe, warm_up
from .kernel_times import rate_of
from .results import Result, spread
from .work import Work, operations_of, shape_of

CACHE = 128 << 20
"""Bytes that weights of a case take at least in all, more than caches of GPUs hold."""

_MOST_COPIES = 96
"""Weights of a case."""


@dataclass(frozen=True)
class Case:
    """An op at some shapes, applied to several weights in turn.

    Attributes:
        name: for people.
        op: that is applied.
        operands: types of its operands.
        weight: which of them is another one each time.
        attrs: of the op.
        in_a_row: whether the applications follow each other without waiting, as what is left of a
            short one is mostly its start. They are timed together then.
    """

    name: str
    op: str
    operands: tuple[TensorType, ...]
    weight: int = 1
    attrs: tuple[tuple[str, bool], ...] = ()
    in_a_row: bool = False

    @property
    def copies(self) -> int:
        """How many weights there are, so that each is read from memory."""
        needed = math.ceil(CACHE / self.operands[self.weight].nbytes)
        return max(1, min(_MOST_COPIES, needed))


def cases(config: BitNetConfig, rows: int) -> Iterator[Case]:
    """Products of a model: of many rows as in training, of one as in decoding."""
    hidden, wide = config.hidden_size, config.intermediate_size
    across = (("transpose_b", True),)
    for name, out, inner in (("gate", wide, hidden), ("down", hidden, wide), ("q", hidden, hidden)):
        w = tensor("t2", out, inner)
        yield Case(f"{name} forward", "ternary_matmul", (tensor("q8", rows, inner), w))
        yield Case(f"{name} dX", "ternary_matmul_t", (tensor("f32", rows, out), w))
        one = Case(f"{name} of one row", "ternary_matmul", (tensor("q8", 1, inner), w))
        yield from (one, replace(one, name=f"{one.name}, in a row", in_a_row=True))
    head = (tensor("f32", 1, hidden), tensor("f16", config.vocab_size, hidden))
    yield Case("head of one row", "matmul", head, attrs=across)


def case_graph(case: Case) -> tuple[Graph, frozenset[str]]:
    """The op applied to each weight in turn, and the labels of these nodes.

    Its results are reduced to a number each, so that they need not be kept.
    """
    b = GraphBuilder("kernels")
    others = {
        k: b.add_input(f"x{k}", type, Role.WEIGHT)
        for k, type in enumerate(case.operands)
        if k != case.weight
    }
    results: list[Value] = []
    totals: list[Value] = []
    labels: list[str] = []
    weights = [
        b.add_input(f"w{copy}", case.operands[case.weight], Role.WEIGHT)
        for copy in range(case.copies)
    ]
    for w in weights:
        operands = {**others, case.weight: w}
        y = b.op(case.op, *(operands[k] for k in sorted(operands)), name="", **dict(case.attrs))
        labels.append(label_of(b.nodes[-1]))
        results.append(y)
        if not case.in_a_row:
            totals.append(b.op("dot", y, y))
    totals += [b.op("dot", y, y) for y in results[len(totals) :]]
    return b.finish(tuple(totals)), frozenset(labels)


def operand_values(graph: Graph) -> Mapping[str, HostValue]:
    """Random values for all inputs."""
    rng = np.random.default_rng(0)
    return {v.name: _draw(rng, v.type) for v in graph.inputs_of(Role.WEIGHT)}


def measure_kernels(model: str, device: str | None, rows: int, rounds: int, only: str) -> Result:
    """Time every case whose name contains `only`.

    Returns:
        "kernels": for each case its name, op, shape, the kernels that serve it, "seconds" of one
        application (the median of the rounds), "rate" and "unit", and "roofline", the part of what
        the device could do at most.
    """
    config = load_checkpoint(Path(model)).config
    chosen = [case for case in cases(config, rows) if only in case.name]
    info = select_device(device)
    found: list[Result] = []
    result: Result = {}
    for case in chosen:
        with ProfilingDevice(info) as gpu:  # closed behind each, which frees the memory
            result = describe(gpu)
            found.append(_measure(gpu, case, rounds))
    return {**result, "rows": rows, "rounds": rounds, "kernels": found}


def _measure(gpu: ProfilingDevice, case: Case, rounds: int) -> Result:
    graph, labels = case_graph(case)
    gpu.together = case.in_a_row
    backend = WatchedBackend(gpu)
    backend.load(operand_values(graph))
    program = backend.compile(graph)
    warm_up(lambda: program.run({}))
    times = []
    for _ in range(rounds):
        program.run({})
        _, recording = gpu.recorded[-1]
        taken = sum(seconds for label, seconds in recording.seconds() if label in labels)
        times.append(taken / case.copies)
    dispatches = [d for d in program.plan.schedule.dispatches if d.label in labels]
    node = graph.nodes[0]
    moved = sum(value.type.nbytes for value in (*node.inputs, *node.outputs))
    work = Work(*operations_of(node), bytes=moved)
    result = spread("seconds", times)
    ceilings = ceilings_of(gpu.info.name)
    rate, unit = rate_of(work, result["seconds"], ceilings)
    return {
        "case": case.name,
        "op": case.op,
        "shape": shape_of(node),
        "kernels": list(dict.fromkeys(d.kernel for d in dispatches)),
        "copies": case.copies,
        **result,
        "rate": rate,
        "unit": unit,
        "roofline": ceilings.seconds(work) / result["seconds"] if ceilings else None,
    }


def _draw(rng: np.random.Generator, type: TensorType) -> HostValue:
    if type.dtype is DType.T2:
        return random_ternary(rng, type.shape)
    if type.dtype is DType.Q8:
        codes = rng.integers(-127, 128, type.shape, np.int8)
        return Quantized(codes, np.ones((type.shape[0], 1), np.float32))
    drawn = rng.random(type.shape, np.float32) - np.float32(0.5)
    return drawn.astype(type.dtype.numpy, copy=False)
