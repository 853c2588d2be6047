"""Ctrl-C: the step that runs is finished and its adapter is kept."""

import os
import signal
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend, NumpyProgram
from bitgraph.models.adapters.peft import load_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.data.encoding import EncodingOptions
from bitgraph.models.data.source import prepare
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer
from runs import read_metrics

OPTIONS = TrainingOptions(rank=4, batch_size=3, epochs=20, max_seq_len=256, lr=1e-3)
ARGUMENTS = (
    "--backend", "numpy", "--rank", 4, "--batch-size", 3, "--epochs", 20, "--max-seq-len", 256,
    "--lr", 1e-3,
)  # fmt: skip


def expected_tensors(model, data, steps):
    """The adapters of such a run after some of its steps."""
    checkpoint = load_checkpoint(model)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    examples = prepare(data, tokenizer, EncodingOptions(OPTIONS.max_seq_len)).encoded.examples
    trainer = Trainer(checkpoint.config, checkpoint.weights, NumpyBackend(), OPTIONS)
    for report in trainer.fit(examples):
        if report.step == steps:
            return trainer.tensors()
    raise AssertionError("the run has fewer steps")


def assert_adapter_of_step(out, model, data, step):
    saved = load_adapter(out).tensors
    for name, tensor in expected_tensors(model, data, step).items():
        np.testing.assert_array_equal(saved[name], tensor, err_msg=name)


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C a number of times when a step begins, once."""

    def at(step, times):
        original, begun = NumpyProgram.start, count(1)

        def pressed(self, number=1):
            if next(begun) == step:
                monkeypatch.setattr(NumpyProgram, "start", original)
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            return original(self, number)

        monkeypatch.setattr(NumpyProgram, "start", pressed)

    return at


def test_the_step_is_finished(bitgraph, interrupt, model, data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    interrupt(3, times=1)
    out = tmp_path / "out"
    result = bitgraph("train", "--model", model, "--data", data, "--out", out, *ARGUMENTS)
    assert result.code == 130
    said = result.err.splitlines()
    assert said[-1] == "stopped"
    assert f"adapter of step 3 written to {out}" in said
    checkpoint = out / "checkpoints" / "step-00000003"
    how = f"the same command with --resume goes on from {checkpoint}"
    assert any(line.endswith(how) for line in said)
    events = [(record["event"], record["step"]) for record in read_metrics(out)]
    assert [event for event in events if event[0] != "data"] == [
        ("start", 0), ("step", 1), ("step", 2), ("step", 3), ("checkpoint", 3),
    ]  # fmt: skip
    assert signal.getsignal(signal.SIGINT) is before
    assert_adapter_of_step(out, model, data, 3)


def test_a_second_press_does_not_wait(bitgraph, interrupt, model, data, tmp_path):
    interrupt(3, times=2)
    out = tmp_path / "out"
    result = bitgraph("train", "--model", model, "--data", data, "--out", out, *ARGUMENTS)
    assert result.code == 130
    assert "adapter of step 2 written" in result.err
    assert_adapter_of_step(out, model, data, 2)


def test_before_the_first_step_nothing_is_saved(bitgraph, interrupt, model, data, tmp_path):
    interrupt(1, times=2)
    out = tmp_path / "out"
    result = bitgraph("train", "--model", model, "--data", data, "--out", out, *ARGUMENTS)
    assert (result.code, result.err.splitlines()[-1]) == (130, "stopped")
    left = sorted(path.name for path in out.iterdir())
    assert left == ["config.toml", "metrics.jsonl", "tensorboard"]


def test_a_real_process_stops(model, data, tmp_path):
    """Signalled from outside, at whatever moment that is."""
    out = tmp_path / "out"
    arguments = ("train", "--model", model, "--data", data, "--out", out, *ARGUMENTS)
    long = (*arguments, "--epochs", 10_000)
    code = "from bitgraph.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, long)], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        metrics = out / "metrics.jsonl"
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 4:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"adapter of step {read_metrics(out)[-1]['step']} written to {out}" in said
    assert load_adapter(out).rank == 4
