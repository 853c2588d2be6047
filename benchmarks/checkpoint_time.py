"""Time that a checkpoint of a 2B model at rank 16 takes, and how long it holds up a step.

    python benchmarks/checkpoint_time.py [--backend vulkan --device NAME] [--out FOLDER]

The tensors have the shapes of such a run and random values; no model is needed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from bitgraph.cli.options import make_backend
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
from bitgraph.passes.optimizer import initial_state

ROUNDS = 5


def main() -> None:
    """Print both times, the longest of some rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="folder on the disk to measure")
    given = parser.parse_args()
    options = TrainingOptions(rank=16)
    adapters = initial_tensors(projection_shapes(preset_config("2b-4t")), options.rank, 0)
    state = initial_state(options.optimizer_pass(), adapters)
    rng = np.random.default_rng(0)
    state = {n: rng.random(v.shape, np.float32) if v.ndim else v for n, v in state.items()}
    backend = make_backend(given.backend, given.device)
    backend.load({**adapters, **state})
    size = sum(value.nbytes for value in (*adapters.values(), *state.values()))
    held, written = [], []
    with tempfile.TemporaryDirectory(dir=given.out) as folder:
        with CheckpointWriter(Path(folder), keep=2) as writer:
            for step in range(1, ROUNDS + 1):
                begin = time.perf_counter()
                values = backend.read_all((*adapters, *state))
                adapter = options.adapter({name: values.pop(name) for name in adapters}, "")
                writer.submit(TrainingCheckpoint(Progress(step), {}, adapter, values))
                held.append(time.perf_counter() - begin)
                writer.wait()
                written.append(time.perf_counter() - begin)
        read_checkpoint(Path(folder) / "checkpoints" / f"step-{ROUNDS:08d}")
    print(f"{size / 1e6:.0f} MB on {backend.name}: a step is held up {max(held):.3f} s, ", end="")
    print(f"the checkpoint is on disk after {max(written):.2f} s")


if __name__ == "__main__":
    main()
