"""A table of what each kernel takes, from timestamps of the device."""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...backends.vulkan.query import select_device
from ...backends.vulkan.schedule import Dispatch
from ...graph.ir import Graph
from ...models.bitnet.checkpoint import load_checkpoint
from ...models.bitnet.generate import Sampling
from ...models.data.batching import make_batch
from .ceilings import NOMINAL, Ceilings, ceilings_of
from .instruments import ProfilingDevice, WatchedBackend, describe, warm_up
from .measure import UNSUPERVISED, draw_prompt, make_generator, make_trainer
from .results import Result
from .work import Work, nodes_by_label, shape_of, work_of

PROFILED = 4
"""Steps or tokens of a profile behind those that warm up; their medians count."""

_LAYER = re.compile(r"\blayers\.\d+")


@dataclass(frozen=True)
class Row:
    """Dispatches that are alike.

    Attributes:
        kernel: its name, options included.
        op: what it computes, as the graph calls it; a fused node's pattern.
        scope: where in the model, all layers alike.
        shape: rows x columns x inner length of a product, the result's shape of others.
        count: dispatches.
        seconds: of all of them, each run alone.
        rate: operations or bytes per second, whichever bounds it.
        unit: of the rate: "TFLOP/s", "TOP/s" (8-bit codes) or "GB/s", which it is given in.
        roofline: the part of what the device could do at most; None where that is not known.
    """

    kernel: str
    op: str
    scope: str
    shape: str
    count: int
    seconds: float
    rate: float
    unit: str
    roofline: float | None


def profile_training(
    model: str, device: str | None, batch: int, length: int, budget: str = ""
) -> Result:
    """Time the kernels of a training step."""
    with ProfilingDevice(select_device(device)) as gpu:
        backend = WatchedBackend(gpu)
        steps = PROFILED + 1
        trainer, examples = make_trainer(Path(model), backend, batch, length, steps, budget)
        trainer.report(examples)
        backend.programs = backend.programs[-1:]

        def run(step: int) -> None:
            some = examples[step * batch : (step + 1) * batch]
            trainer.step(make_batch(some), step + 1, 1e-4)

        # A query sees itself and those before it in its example.
        profiles = _profiles(gpu, backend, run, keys=(length + 1) / 2)
        return {
            **describe(gpu),
            "batch": batch,
            "length": length,
            "supervised": batch * (length - UNSUPERVISED),
            "profiles": profiles,
        }


def profile_decoding(model: str, device: str | None, lora: bool, prompt: int) -> Result:
    """Time the kernels of a prefill, and of a token behind it."""
    with ProfilingDevice(select_device(device)) as gpu:
        backend = WatchedBackend(gpu)
        backend.steps_together = 1
        path = Path(model)
        config = load_checkpoint(path).config
        generator, rng = make_generator(path, backend, lora, prompt, 64)

        def run(_: int) -> None:
            ids = draw_prompt(rng, prompt, config)
            for _token in generator.generate(ids, Sampling(), frozenset(), 2):
                pass

        profiles = _profiles(gpu, backend, run, keys=None)
        return {**describe(gpu), "lora": lora, "prompt": prompt, "profiles": profiles}


def _profiles(
    gpu: ProfilingDevice,
    backend: WatchedBackend,
    run: Callable[[int], None],
    keys: float | None,
) -> list[Result]:
    """Run a few times; the table of everything that was recorded and still can be run."""
    laps: dict[int, list[list[float]]] = defaultdict(list)
    warm_up(lambda: run(0))
    for number in range(1, PROFILED + 1):
        run(number)
        for index, (_, recording) in enumerate(gpu.recorded):
            if recording.is_open:
                laps[index].append([seconds for _, seconds in recording.seconds()])
    ceilings = ceilings_of(gpu.info.name)
    graphs = {program.plan.schedule.name: program.graph for program in backend.programs}
    found = []
    for index, times in laps.items():
        schedule, _ = gpu.recorded[index]
        seconds = [statistics.median(each) for each in zip(*times, strict=True)]
        graph = graphs[schedule.name]
        rows = table(graph, schedule.dispatches, seconds, keys, ceilings)
        found.append(
            {
                "name": schedule.name,
                "seconds": sum(seconds),
                "dispatches": len(seconds),
                "rows": [asdict(row) for row in rows],
            }
        )
    return found


def table(
    graph: Graph,
    dispatches: Sequence[Dispatch],
    seconds: Sequence[float],
    keys: float | None,
    ceilings: Ceilings | None,
) -> list[Row]:
    """Dispatches by what is alike, the slowest first.

    Args:
        graph: that they compute.
        dispatches: in order.
        seconds: of each of them.
        keys: see `operations_of`.
        ceilings: of the device, None if not known.
    """
    nodes = nodes_by_label(graph)
    groups: dict[tuple[str, str, str, str], list[tuple[float, Work]]] = defaultdict(list)
    works = work_of(graph, dispatches, seconds, keys)
    for dispatch, taken, work in zip(dispatches, seconds, works, strict=True):
        node = nodes.get(dispatch.label)
        if node is None:
            key = (dispatch.kernel, "", "", "")
        else:
            op = node.attributes.get("pattern", node.op)
            key = (dispatch.kernel, op, _LAYER.sub("layers.*", node.scope), shape_of(node))
        groups[key].append((taken, work))
    rows = [_row(key, each, ceilings) for key, each in groups.items()]
    return sorted(rows, key=lambda row: -row.seconds)


def _row(
    key: tuple[str, str, str, str],
    each: Sequence[tuple[float, Work]],
    ceilings: Ceilings | None,
) -> Row:
    total = sum(seconds for seconds, _ in each)
    work = sum((work for _, work in each), Work())
    rate, unit = rate_of(work, total, ceilings)
    roofline = ceilings.seconds(work) / total if ceilings and total else None
    return Row(*key, len(each), total, rate, unit, roofline)


def rate_of(work: Work, seconds: float, ceilings: Ceilings | None) -> tuple[float, str]:
    """Work per second, of the kind that bounds it, and its unit."""
    bound = ceilings or NOMINAL
    if bound.computing(work) > work.bytes / bound.bandwidth:
        unit = "TOP/s" if work.on_codes else "TFLOP/s"
        return work.operations / max(seconds, 1e-12), unit
    return work.bytes / max(seconds, 1e-12), "GB/s"
