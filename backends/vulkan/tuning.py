"""Choosing among kernels by timing them, once for each device, driver and size.

Where several kernels can compute a product (`Lowering.choose`), which is the fastest depends on
the device. What was found is kept in the cache folder, so that only the first program with a size
pays for it. Kernels may differ in the order in which they add, so two devices, or a cache that was
deleted in between, may give results that differ in rounding.

What a way gives is compared with NumPy's on a few rows, so a kernel that a driver gets wrong is not
used where another one is right.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np

from ...graph.build import GraphBuilder
from ...graph.ir import Graph, Role
from ...graph.ops.draws import integers, normal
from ...graph.storage import Storage
from ...graph.tensors import Array, HostValue, Quantized
from ...graph.types import DType, tensor
from ...passes.fuse.fuse import Fuse
from ...passes.fuse.patterns import LOSS_AND_GRADIENT
from ..numpy.evaluate import evaluate
from .buffers import DeviceBuffer
from .device import SHADERS, Device
from .errors import DeviceError, DeviceLost, OutOfDeviceMemory
from .info import DeviceType
from .layout import to_bytes
from .limits import Limits
from .loss_step import loss_step
from .lowering.calls import Choice
from .plan import make_plan
from .transfer import Region

_ROUNDS = 6
_TOLERANCE = 1e-2
"""Of a result, beside the largest of its row: far above any rounding."""


class Tuner:
    """The choices of a device.

    Attributes:
        avoided: ways that lost to another, for `Limits.avoided`.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._storage = Storage(device.cache / "tuning")
        self._settled: set[Choice] = set()
        self.avoided: frozenset[str] = frozenset()

    def settle(self, choices: Iterable[Choice], limits: Limits) -> bool:
        """Time what is not known yet; returns whether `avoided` has changed.

        Args:
            choices: of a plan.
            limits: that it was made for.

        Small products and those of a CPU keep the way that is expected to be the fastest.
        """
        before = self.avoided
        for choice in choices:
            on_cpu = self._device.info.type is DeviceType.CPU
            if choice in self._settled or not choice.is_large or on_cpu:
                continue
            self._settled.add(choice)
            best = self._best(choice, limits)
            self.avoided |= {choice.name(way) for way in choice.ways if way != best}
        return self.avoided != before

    def _best(self, choice: Choice, limits: Limits) -> str:
        """The fastest way; the last, which is the plainest, without memory to try them."""
        try:
            seconds = self._known(choice) or self._time(choice, limits)
        except OutOfDeviceMemory:
            return choice.ways[-1]
        return min(seconds, key=lambda way: seconds[way])

    def _known(self, choice: Choice) -> dict[str, float] | None:
        kept = self._storage.read(choice.op, self._key(choice))
        return None if kept is None else dict(json.loads(kept))

    def _key(self, choice: Choice) -> str:
        return f"{self._device.pipelines.key}\n{_shader_digest()}\n{choice}"

    def _time(self, choice: Choice, limits: Limits) -> dict[str, float]:
        seconds = time_ways(self._device, limits, choice)
        self._storage.write(choice.op, self._key(choice), json.dumps(seconds).encode())
        return seconds


def time_ways(device: Device, limits: Limits, choice: Choice) -> dict[str, float]:
    """Seconds of each way of a choice, the least of some rounds in which they take turns.

    Ways that the driver refuses, or whose results are wrong, are left out.

    Raises:
        OutOfDeviceMemory: there is no room to try them.
        DeviceError: none is left.
    """
    graph = Fuse()(_trial(choice.op, choice.sizes))
    values = _drawn(graph, choice.sizes[-1])
    runs: dict[str, _Run] = {}
    try:
        for way in choice.ways:
            with _unless_refused():
                runs[way] = _Run(device, graph, values, _only(limits, choice, way))
        rounds = [{way: run.seconds() for way, run in runs.items()} for _ in range(_ROUNDS)]
        right = [way for way, run in runs.items() if _is_right(run, choice, values)]
    finally:
        for run in runs.values():
            run.close()
    if not right:
        sizes = "x".join(map(str, choice.sizes))
        raise DeviceError(
            f"{device.info.name} computes {choice.op} of {sizes} wrongly by every kernel for it; "
            "update its driver, and run: bitgraph verify --backend vulkan"
        )
    return {way: min(seconds[way] for seconds in rounds) for way in right}


@contextmanager
def _unless_refused() -> Iterator[None]:
    """Go on where a driver refuses a kernel."""
    try:
        yield
    except (OutOfDeviceMemory, DeviceLost):
        raise
    except DeviceError:
        pass


def _is_right(run: "_Run", choice: Choice, values: Mapping[str, HostValue]) -> bool:
    """Whether the first, the middle and the last row of a result are near NumPy's."""
    rows = choice.sizes[0]
    some = [0, rows // 2, rows - 1]
    few = {name: v if name == "w" else _rows_of(v, some) for name, v in values.items()}
    result = evaluate(_trial(choice.op, (len(some), *choice.sizes[1:])), few)["y"]
    for row, wanted in zip(some, np.asarray(result), strict=True):
        error = np.abs(run.row(row, wanted.size) - wanted).max()
        if not error <= _TOLERANCE * np.abs(wanted).max():
            return False
    return True


def _rows_of(x: HostValue, rows: list[int]) -> HostValue:
    if isinstance(x, Quantized):
        return Quantized(x.codes[rows], x.scale[rows])
    return np.asarray(x)[rows]


def _only(limits: Limits, choice: Choice, way: str) -> Limits:
    others = {choice.name(other) for other in choice.ways if other != way}
    return replace(limits, avoided=limits.avoided | others)


def _trial(op: str, sizes: tuple[int, int, int]) -> Graph:
    """A graph of one choice, with a result `y` that has a row for each of all inputs but `w`."""
    return _loss(sizes) if op == LOSS_AND_GRADIENT.name else _product(op, sizes)


def _product(op: str, sizes: tuple[int, int, int]) -> Graph:
    rows, inner, columns = sizes
    on_codes = op == "ternary_matmul"
    b = GraphBuilder(op)
    left = tensor("q8" if on_codes else "f32", rows, inner)
    right = tensor("t2", *((columns, inner) if on_codes else (inner, columns)))
    x, w = b.add_input("x", left, Role.INPUT), b.add_input("w", right, Role.WEIGHT)
    return b.finish((b.op(op, x, w, name="y"),))


def _loss(sizes: tuple[int, int, int]) -> Graph:
    rows, width, columns = sizes
    labels, weights = tensor("i32", rows), tensor("f32", rows)
    return loss_step(tensor("f32", rows, width), tensor("f16", columns, width), labels, weights)


def _drawn(graph: Graph, columns: int) -> dict[str, HostValue]:
    """Random values for the inputs of a graph; labels are below `columns`."""
    rng, label = np.random.default_rng(0), integers(0, columns)
    inputs = [item.value for item in graph.inputs]
    return {
        value.name: (label if value.type.dtype is DType.I32 else normal)(rng, value.type)
        for value in inputs
    }


class _Run:
    """A graph on buffers of its own, to be timed."""

    def __init__(
        self, device: Device, graph: Graph, values: Mapping[str, HostValue], limits: Limits
    ) -> None:
        schedule = make_plan(graph, limits).schedule
        self._device = device
        self._buffers: dict[str, DeviceBuffer] = {}
        try:
            for b in schedule.buffers:
                self._buffers[b.name] = device.buffer(f"tuning {b.name}", b.size)
            device.upload([(self._buffers[n], to_bytes(value), 0) for n, value in values.items()])
            self._recording = device.record(schedule, self._buffers, profile=True)
        except BaseException:
            device.free(self._buffers.values())
            raise

    def seconds(self) -> float:
        self._recording.submit()
        return sum(seconds for _, seconds in self._recording.seconds())

    def row(self, row: int, columns: int) -> Array:
        """A row of the result `y` of so many columns."""
        (data,) = self._device.download(
            [Region(self._buffers["y"], 4 * row * columns, 4 * columns)]
        )
        return np.asarray(data.view(np.float32))

    def close(self) -> None:
        self._recording.close()
        self._device.free(self._buffers.values())


@cache
def _shader_digest() -> str:
    """A digest of all shaders: when one changes, what was timed is forgotten."""
    digest = hashlib.sha256()
    for file in sorted(SHADERS.iterdir()):
        if file.suffix in (".comp", ".glsl"):
            digest.update(file.read_bytes())
    return digest.hexdigest()
