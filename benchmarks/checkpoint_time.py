"""Time that a checkpoint of a 2B model at rank 16 takes, and how long it holds up a step.

    python benchmarks/checkpoint_time.py [--backend vulkan --device NAME] [--out FOLDER]

The tensors have the shapes of such a run and random values; no model is needed.
"""

import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import click
import numpy as np
from bitgraph.cli.options import backend_option, device_option, make_backend
from bitgraph.graph.tensors import Array
from bitgraph.models.adapters.lora import initial_tensors
from bitgraph.models.bitnet.config import projection_shapes
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.models.training.checkpoints import (
    CheckpointWriter,
    Progress,
    TrainingCheckpoint,
    read_checkpoint,
)
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.subjects import Adapters
from bitgraph.passes.optimizer import initial_state

ROUNDS = 5


@click.command()
@backend_option
@device_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder on the disk to measure.")
def main(backend: str, device: str | None, out: Path | None) -> None:
    """Print both times, the longest of some rounds."""
    options = TrainingOptions(rank=16)
    subject = Adapters(options)
    adapters = initial_tensors(projection_shapes(preset_config("2b-4t")), options.rank, 0)
    state = initial_state(options.optimizer_pass(), adapters)
    rng = np.random.default_rng(0)
    state = {n: rng.random(v.shape, np.float32) if v.ndim else v for n, v in state.items()}
    chosen = make_backend(backend, device)
    chosen.load({**adapters, **state})
    size = sum(value.nbytes for value in (*adapters.values(), *state.values()))
    held, written = [], []
    with tempfile.TemporaryDirectory(dir=out) as folder:
        with CheckpointWriter(Path(folder), 2, subject.save) as writer:
            for step in range(1, ROUNDS + 1):
                begin = time.perf_counter()
                values = chosen.read_all((*adapters, *state))
                writer.submit(partial(_checkpoint, step, values, adapters))
                held.append(time.perf_counter() - begin)
                writer.wait()
                written.append(time.perf_counter() - begin)
        read_checkpoint(Path(folder) / "checkpoints" / f"step-{ROUNDS:08d}", subject.load)
    print(f"{size / 1e6:.0f} MB on {chosen.name}: a step is held up {max(held):.3f} s, ", end="")
    print(f"the checkpoint is on disk after {max(written):.2f} s")


def _checkpoint(
    step: int, values: Mapping[str, Array], adapters: Iterable[str]
) -> TrainingCheckpoint:
    tensors = {name: values[name] for name in adapters}
    rest = {name: value for name, value in values.items() if name not in tensors}
    return TrainingCheckpoint(Progress(step), {}, tensors, rest)


if __name__ == "__main__":
    main()
