"""Checkpoints that are made and written beside the training."""

import threading
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.adapters.lora import initial_tensors
from bitgraph.models.bitnet.config import projection_shapes
from bitgraph.models.training.checkpoints import (
    CheckpointWriter,
    Progress,
    TrainingCheckpoint,
    checkpoint_folders,
    read_checkpoint,
)
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.subjects import Adapters
from tiny_model import CONFIG

SHAPES = {m: s for m, s in projection_shapes(CONFIG).items() if m.endswith("q_proj")}
ADAPTERS = Adapters(TrainingOptions(rank=2, alpha=4.0, targets=("q_proj",)))
LONG = 60.0


def checkpoint(step, value=0.5):
    tensors = {name: tensor + np.float32(value) for name, tensor in _tensors().items()}
    return TrainingCheckpoint(Progress(step), {"seed": 3}, tensors, {"m": np.arange(5.0)})


def _tensors():
    return initial_tensors(SHAPES, 2, 0)


def test_what_makes_a_checkpoint_holds_up_nothing_but_the_next_one(tmp_path: Path):
    go_on, begun, queued = threading.Event(), threading.Event(), threading.Event()
    threads = []

    def slow():
        threads.append(threading.current_thread())
        begun.set()
        assert go_on.wait(LONG)
        return checkpoint(1)

    def next_one():
        writer.submit(lambda: checkpoint(2))
        queued.set()

    with CheckpointWriter(tmp_path, 2, ADAPTERS.save) as writer:
        writer.submit(slow)
        assert begun.wait(LONG)
        writer.check()
        assert checkpoint_folders(tmp_path) == []
        other = threading.Thread(target=next_one)
        other.start()
        assert not queued.wait(0.2)
        go_on.set()
        other.join(LONG)
    assert threading.main_thread() not in threads
    found = [read_checkpoint(folder, ADAPTERS.load) for folder in checkpoint_folders(tmp_path)]
    assert [each.progress.step for each in found] == [1, 2]
    for name, tensor in checkpoint(1).trained.items():
        np.testing.assert_array_equal(found[0].trained[name], tensor)
    assert found[1].state["m"].tolist() == list(range(5))


def test_a_checkpoint_that_cannot_be_made_is_told_and_leaves_the_last_one(tmp_path: Path):
    with CheckpointWriter(tmp_path, 2, ADAPTERS.save) as writer:
        writer.submit(lambda: checkpoint(1))
        writer.submit(lambda: checkpoint(2, np.nan))
        with pytest.raises(BitgraphError, match="finite"):
            writer.wait()
    (kept,) = checkpoint_folders(tmp_path)
    assert read_checkpoint(kept, ADAPTERS.load).progress.step == 1
