"""The NumPy backend: the same results as `evaluate`, on all cores and with little memory."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from threadpoolctl import ThreadpoolController

from ...graph.analysis import PLAIN, Footprint
from ...graph.ir import Graph, Input, Node, Role
from ...graph.ops import op_def
from ...graph.program import ArenaUse
from ...graph.rewrite import expand_fused
from ...graph.tensors import Array, HostValue, Quantized, Ternary
from ...graph.types import DType, GraphError, TensorType
from ...graph.values import check_type, describe_result
from .evaluate import apply, each_result, time_nodes
from .stages import Stages, Sweep, Tasks, plan_stages

BLOCK = 128
"""Rows of a block. It is fixed, so that results do not depend on the number of cores."""

MOST_SLICES = 8
"""Tasks that a node may be cut into."""

PROFILED = 3
"""Steps of a profile."""

DENSE_BUDGET = 1 << 30
"""Bytes of decoded weights that a backend keeps; a model that needs more is decoded as it runs."""


class NumpyBackend:
    """Executes graphs with NumPy, on a pool of threads that share out blocks and tasks."""

    steps_together = 1

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.values: dict[str, HostValue] = {}
        self._pool = ThreadPoolExecutor(self.threads)
        self._blas = ThreadpoolController()
        self._dense_bytes: dict[str, int] = {}

    @property
    def name(self) -> str:
        """NumPy, whatever the processor; see `Backend`."""
        return "NumPy"

    @property
    def memory(self) -> None:
        """All memory is the host's; see `Backend`."""

    @property
    def footprint(self) -> Footprint:
        """Sweeps need less than whole values, but how much less is not counted; see `Backend`."""
        return PLAIN

    def profile(self, graph: Graph, inputs: Mapping[str, Array]) -> dict[str, float]:
        """The least of several runs of each node alone; see `Backend`."""
        return time_nodes(graph, {**self.values, **inputs}, PROFILED)

    def load(self, values: Mapping[str, HostValue]) -> None:
        """Take over persistent values; see `Backend`."""
        for name, value in values.items():
            self._dense_bytes.pop(name, None)
            self.values[name] = self._prepare(name, value)

    def read(self, name: str) -> Array:
        """A copy of a persistent plain tensor; see `Backend`."""
        if name not in self.values:
            raise GraphError(f"no value is given for %{name}")
        value = self.values[name]
        if isinstance(value, Ternary | Quantized):
            raise GraphError(f"%{name} is packed and has no plain contents")
        return value.copy()

    def read_all(self, names: Sequence[str]) -> dict[str, Array]:
        """Copies of many persistent plain tensors; see `Backend`."""
        return {name: self.read(name) for name in names}

    def compile(self, graph: Graph) -> "NumpyProgram":
        """Plan a graph's stages; see `Backend`."""
        return NumpyProgram(self, graph)

    def parallel(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Run tasks on all cores and wait for them; BLAS has the cores to itself for a lone one."""
        queue = list(tasks)
        if len(queue) == 1:
            queue[0]()
            return
        with self._blas.limit(limits=1):
            for future in [self._pool.submit(task) for task in queue]:
                future.result()

    def _prepare(self, name: str, value: HostValue) -> HostValue:
        """Decode packed and half-precision weights for good where the budget allows."""
        packed = isinstance(value, Ternary)
        if not packed and not (isinstance(value, np.ndarray) and value.dtype == np.float16):
            return value
        size = (8 if packed else 4) * int(np.prod(value.shape))
        if sum(self._dense_bytes.values()) + size > DENSE_BUDGET:
            return value
        self._dense_bytes[name] = size
        if isinstance(value, Ternary):
            return value.with_dense(np.float32)
        return np.asarray(value).astype(np.float32)


@dataclass(frozen=True)
class Done:
    """Steps that are already finished; see `Pending`."""

    outputs: list[dict[str, Array]]
    done: bool = True

    def results(self) -> list[dict[str, Array]]:
        """The outputs of each step."""
        return self.outputs


class NumpyProgram:
    """A graph and its stages."""

    def __init__(self, backend: NumpyBackend, graph: Graph) -> None:
        self.graph = graph
        self._backend = backend
        self._stages = plan_stages(expand_fused(graph))
        self._staged: deque[Mapping[str, Array]] = deque()
        self._donated = {alias.output: alias.donated for alias in graph.aliases}

    @property
    def schedule(self) -> Stages:
        """Sweeps and tasks of a step; see `Program`."""
        return Stages(self.graph.name, self._stages)

    @property
    def device_bytes(self) -> int:
        """Nothing: all memory is the host's."""
        return 0

    @property
    def arenas(self) -> ArenaUse:
        """None; see `Program`."""
        return ArenaUse()

    def stage(self, steps: Sequence[Mapping[str, Array]]) -> None:
        """Keep the inputs of the coming steps; see `Program`."""
        for inputs in steps:
            for item in self.graph.inputs:
                if item.role is Role.INPUT:
                    _fetch(item, inputs)
        self._staged = deque(steps)

    def start(self, count: int = 1) -> "Done":
        """Run steps at once; see `Program`."""
        if count > len(self._staged):
            raise GraphError(f"only {len(self._staged)} steps are staged")
        return Done([self.run(self._staged.popleft()) for _ in range(count)])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One step; see `Program`."""
        environment = self._feed(inputs)
        for stage in self._stages:
            if isinstance(stage, Sweep):
                self._run_sweep(stage, environment)
            else:
                self._run_tasks(stage, environment)
            for name in stage.dying:
                del environment[name]
        results: dict[str, Array] = {}
        for value in self.graph.outputs:
            result = cast(Array, environment[value.name])
            if value.name in self._donated:
                self._backend.values[self._donated[value.name]] = result
            else:
                results[value.name] = result
        return results

    def first_nonfinite(self, inputs: Mapping[str, Array]) -> str | None:
        """Evaluate node by node up to the first such result; see `Program`."""
        values = self._feed(inputs)
        for value in self.graph.inputs_of(*Role):
            if value.type.dtype is DType.F16:  # it may have been decoded
                values[value.name] = np.asarray(values[value.name], np.float16)
        with np.errstate(all="ignore"):
            for node, value, result in each_result(self.graph, values):
                if isinstance(result, np.ndarray) and not np.all(np.isfinite(result)):
                    return describe_result(node, value)
        return None

    def _feed(self, inputs: Mapping[str, Array]) -> dict[str, HostValue]:
        environment: dict[str, HostValue] = {}
        for item in self.graph.inputs:
            source = inputs if item.role is Role.INPUT else self._backend.values
            environment[item.value.name] = _fetch(item, source)
        return environment

    def _run_sweep(self, stage: Sweep, environment: dict[str, HostValue]) -> None:
        results = {
            value.name: _allocate(value.type)
            for node in stage.nodes
            for value in node.outputs
            if value.name in stage.kept
        }

        def block(begin: int) -> None:
            rows = slice(begin, min(begin + BLOCK, stage.rows))
            local: dict[str, HostValue] = {}
            for node in stage.nodes:
                _apply_to_rows(node, rows, environment, local)
            for name, whole in results.items():
                _store(whole, rows, local[name])

        self._backend.parallel([partial(block, begin) for begin in range(0, stage.rows, BLOCK)])
        environment.update(results)

    def _run_tasks(self, stage: Tasks, environment: dict[str, HostValue]) -> None:
        results: dict[str, HostValue] = {}
        tasks: list[Callable[[], None]] = []
        for node in stage.nodes:
            tasks += _slices(node, environment, results)
        self._backend.parallel(tasks)
        environment.update(results)


def _fetch(item: Input, source: Mapping[str, HostValue]) -> HostValue:
    """An input's value, if it is there and has the input's type."""
    name, type = item.value.name, item.value.type
    if name not in source:
        raise GraphError(f"no value is given for the {item.role} {item.value}")
    value = source[name]
    is_decoded = type.dtype is DType.F16 and getattr(value, "dtype", None) == np.float32
    check_type(name, type.with_dtype(DType.F32) if is_decoded else type, value)
    return value


def _apply_to_rows(
    node: Node, rows: slice, whole: Mapping[str, HostValue], local: dict[str, HostValue]
) -> None:
    split = op_def(node.op).split
    assert split is not None
    operands = tuple(
        local[value.name]
        if value.name in local
        else whole[value.name]
        if axis is None
        else _cut(whole[value.name], rows)
        for value, axis in zip(node.inputs, split.inputs, strict=True)
    )
    for value, result in zip(node.outputs, apply(node, operands), strict=True):
        local[value.name] = result


def _slices(
    node: Node, environment: Mapping[str, HostValue], results: dict[str, HostValue]
) -> list[Callable[[], None]]:
    """The tasks of one node: slices along its split axis, or all of it at once."""
    operands = tuple(environment[value.name] for value in node.inputs)
    split = op_def(node.op).split
    count = _slice_count(node)
    if split is None or count < 2:

        def whole() -> None:
            values = apply(node, operands)
            results.update(zip((v.name for v in node.outputs), values, strict=True))

        return [whole]
    targets = tuple(_allocate(value.type) for value in node.outputs)
    results.update(zip((v.name for v in node.outputs), targets, strict=True))

    def part(index: int) -> None:
        cut = tuple(
            operand if axis is None else _cut(operand, _slice(operand.shape, axis, index, count))
            for operand, axis in zip(operands, split.inputs, strict=True)
        )
        for target, axis, value in zip(targets, split.outputs, apply(node, cut), strict=True):
            target[_slice(target.shape, axis, index, count)] = value  # type: ignore[index]

    return [partial(part, index) for index in range(count)]


def _slice_count(node: Node) -> int:
    """How many equal slices a node is cut into: all its cut axes must be multiples of it."""
    split = op_def(node.op).split
    if split is None:
        return 1
    pairs = zip(node.inputs, split.inputs, strict=True)
    cut = [(value.type.shape, axis) for value, axis in pairs if axis is not None]
    if any(axis >= len(shape) for shape, axis in cut):
        return 1
    common = math.gcd(*(shape[axis] for shape, axis in cut))
    return max(count for count in range(1, MOST_SLICES + 1) if common % count == 0)


def _slice(shape: tuple[int, ...], axis: int, index: int, count: int) -> tuple[slice, ...]:
    """The index-th of `count` equal parts of an axis."""
    begin, end = (shape[axis] * k // count for k in (index, index + 1))
    return (slice(None),) * axis + (slice(begin, end),)


def _allocate(type: TensorType) -> HostValue:
    if type.dtype is DType.Q8:
        codes = np.empty(type.shape, dtype=np.int8)
        return Quantized(codes, np.empty((type.shape[0], 1), dtype=np.float32))
    return np.empty(type.shape, dtype=type.dtype.numpy)


def _cut(value: HostValue, index: slice | tuple[slice, ...]) -> HostValue:
    """Part of a value; int8 codes are cut along rows alone, as their scales are."""
    if isinstance(value, Quantized):
        return Quantized(value.codes[index], value.scale[index])
    assert isinstance(value, np.ndarray)
    return value[index]


def _store(whole: HostValue, rows: slice, part: Any) -> None:
    if isinstance(whole, Quantized):
        whole.codes[rows], whole.scale[rows] = part.codes, part.scale
    else:
        assert isinstance(whole, np.ndarray)
        whole[rows] = part
