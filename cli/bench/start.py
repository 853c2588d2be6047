"""The time from the command to its first training step, and where it goes.

python -m bitgraph.cli.bench.start start '{"begin": 1764000000.0, "model": "2b.gguf", ...}'

runs `bitgraph train` in this very process, with clocks around the functions of `PARTS`. Nothing
but the standard library is imported before the clocks run.
"""

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

PARTS: Final = (
    ("open the file", "cli.train", "load_checkpoint"),
    ("tokenizer", "models.bitnet.tokenizer", "Tokenizer.from_metadata"),
    ("data", "cli.training", "load_data"),
    ("open the device", "cli.training", "make_backend"),
    ("digest of the model", "models.training.trainer", "model_digest"),
    ("graph of the loss", "models.training.trainer", "loss_graph"),
    ("passes", "passes.manager", "PassManager.run"),
)
"""What a clock is put around: a name for people, a module, a function or a method in it."""

VULKAN_PARTS: Final = (
    ("upload of weights and adapters", "backends.vulkan.backend", "VulkanBackend.load"),
    ("lowering and plan", "backends.vulkan.backend", "VulkanBackend.plan"),
    ("lowering and plan", "backends.vulkan.backend", "with_window"),
    ("pipelines", "backends.vulkan.pipelines", "Pipelines.prepare"),
    ("recording", "backends.vulkan.device", "Device.record"),
    ("first step on the device", "backends.vulkan.backend", "Started.results"),
)

_PACKAGE = __package__.rpartition(".cli.")[0]
_VULKAN = ("backends.vulkan.backend", "backends.vulkan.query")


class Clocks:
    """Seconds by part; what one part calls of another counts for that alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._last = time.perf_counter()

    def add(self, part: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts for a part."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return timed

    def until_now(self) -> dict[str, float]:
        """Seconds by part up to this moment."""
        self._turn()
        return dict(self.seconds)

    def _turn(self) -> None:
        """Give the time since the last turn to the part that is open."""
        now = time.perf_counter()
        self.add(self._open[-1] if self._open else "everything else", now - self._last)
        self._last = now


class _FirstStep(Exception):  # noqa: N818
    """Ends the command where its first step is done.

    Attributes:
        at: seconds since the epoch.
        parts: seconds until then, by part.
    """

    def __init__(self, parts: dict[str, float]) -> None:
        super().__init__()
        self.at = time.time()
        self.parts = parts


def measure_start(
    begin: float, model: str, backend: str, device: str | None, batch: int, length: int
) -> dict[str, Any]:
    """Train one step and say where the time went.

    Args:
        begin: seconds since the epoch when the process was started.
        model: a model's file.
        backend: "vulkan" or "numpy".
        device: see `bitgraph train`.
        batch: sequences of the step.
        length: tokens of each.

    Returns:
        "seconds", from the start of the process to the end of the first step, and "parts".
    """
    clocks = Clocks()
    clocks.add("interpreter", time.time() - begin)
    with clocks.part("imports"):
        main = importlib.import_module(f"{_PACKAGE}.cli.main")
        for name in _VULKAN if backend == "vulkan" else ():
            importlib.import_module(f"{_PACKAGE}.{name}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        data = Path(folder) / "data.json"
        record = {"text": "one two three " * length}
        data.write_text(json.dumps([record] * batch))
        for name, module, attribute in PARTS + (VULKAN_PARTS if backend == "vulkan" else ()):
            patches.enter_context(_clock(clocks, name, module, attribute))
        patches.enter_context(_end_at_first_step(clocks))
        options = ["train", "--model", model, "--data", str(data), "--out", f"{folder}/run"]
        options += ["--batch-size", str(batch), "--max-seq-len", str(length)]
        options += ["--backend", backend, *(["--device", device] if device else [])]
        options += ["--max-steps", "1", "--samples", "0", "--no-tensorboard"]
        try:
            main.cli.main(options, standalone_mode=False)
        except _FirstStep as reached:
            return {"side": backend, "seconds": reached.at - begin, "parts": reached.parts}
    raise AssertionError("a run ends with its first step")


@contextmanager
def _clock(clocks: Clocks, name: str, module: str, attribute: str) -> Iterator[None]:
    """A clock around a function or a method."""
    owner: Any = importlib.import_module(f"{_PACKAGE}.{module}")
    *path, last = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    found = owner.__dict__[last]
    function = getattr(owner, last) if isinstance(found, classmethod) else found
    timed = clocks.around(name, function)
    with patch.object(owner, last, staticmethod(timed) if function is not found else timed):
        yield


@contextmanager
def _end_at_first_step(clocks: Clocks) -> Iterator[None]:
    """Let training end with `_FirstStep` where its first step is reported."""
    trainer = importlib.import_module(f"{_PACKAGE}.models.training.trainer").Trainer
    fit = trainer.fit

    def first(*arguments: Any, **options: Any) -> Iterator[Any]:
        for _ in fit(*arguments, **options):
            raise _FirstStep(clocks.until_now())
        yield  # never reached: a run has a step

    with patch.object(trainer, "fit", first):
        yield


def main() -> None:
    """Measure; the arguments are JSON, as for `run_side`."""
    try:
        print(json.dumps(measure_start(**json.loads(sys.argv[2]))))
    except Exception as error:
        from ...graph.errors import BitgraphError  # not before the clocks run

        if not isinstance(error, BitgraphError):
            raise
        sys.exit(str(error))


if __name__ == "__main__":
    main()
