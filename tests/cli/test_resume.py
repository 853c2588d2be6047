"""A run that was killed and taken up again ends in the bits of one that was never stopped."""

import json
import os
import random
import time

import pytest
from killable import start
from runs import files_of, read_metrics

KILLS = {"numpy": 40, "vulkan": 10} if os.environ.get("BITGRAPH_SLOW_TESTS") else {"numpy": 4}
TIMES = ("seconds",)
OPTIONS = (
    "--rank", 4, "--batch-size", 2, "--epochs", 6, "--lr", 1e-2, "--dropout", 0.2, "--pack",
    "--tokens-per-step", 256, "--max-seq-len", 256, "--accumulate", 2, "--save-steps", 2,
    "--eval-steps", 3,
)  # fmt: skip


@pytest.fixture
def arguments(model, data):
    def make(backend, out):
        device = ("--device", "lavapipe") if backend == "vulkan" else ()
        places = ("--model", model, "--data", data, "--eval-data", data, "--out", out)
        return ("train", *places, "--backend", backend, *device, *OPTIONS)

    return make


def without_times(folder):
    records = [r for r in read_metrics(folder) if r["event"] in ("step", "eval", "checkpoint")]
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def results(folder):
    """The adapters and checkpoints of a run; other files tell of times and of the folder."""
    kept = ("adapter_", "best/", "checkpoints/")
    return {name: data for name, data in files_of(folder).items() if name.startswith(kept)}


@pytest.mark.parametrize("backend", KILLS)
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(backend, arguments, tmp_path):
    begun = time.monotonic()
    undisturbed = start(arguments(backend, tmp_path / "whole"), tmp_path / "errors")
    undisturbed.join(120)
    assert undisturbed.exitcode == 0, (tmp_path / "errors").read_text()
    seconds = time.monotonic() - begun
    rng, killed, attempt = random.Random(0), 0, 0
    while killed < KILLS[backend]:
        out, attempt = tmp_path / f"run{attempt}", attempt + 1
        for _ in range(100):
            process = start((*arguments(backend, out), "--resume"), tmp_path / "errors")
            left = KILLS[backend] - killed
            process.join(rng.uniform(0.2, 0.8) * seconds if left else 120)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            killed += 1
        assert process.exitcode == 0, (tmp_path / "errors").read_text()
        assert results(out) == results(tmp_path / "whole")
        assert without_times(out) == without_times(tmp_path / "whole")
    print(f"{backend}: {killed} kills in {attempt} runs")


def resumed(bitgraph, arguments, tmp_path, *options):
    return bitgraph(*arguments("numpy", tmp_path / "run"), "--resume", *options)


def test_without_a_checkpoint_it_begins_and_when_over_it_changes_nothing(
    bitgraph, arguments, tmp_path
):
    first = resumed(bitgraph, arguments, tmp_path)
    assert first.code == 0, first.err
    assert "has no checkpoint yet" in first.err
    before = results(tmp_path / "run")
    again = resumed(bitgraph, arguments, tmp_path)
    assert again.code == 0, again.err
    assert "holds a run that ended behind step" in again.err
    assert results(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank", 8), "rank was 4, not 8"),
        (("--dropout", 0.1), "dropout was 0.2, not 0.1"),
        (("--seed", 3), "seed was 0, not 3"),
        (("--max-seq-len", 255), "max-seq-len was 256, not 255"),
    ],
)
def test_another_run_is_refused_and_a_damaged_checkpoint_too(
    bitgraph, arguments, tmp_path, options, said
):
    assert resumed(bitgraph, arguments, tmp_path, "--max-steps", 2).code == 0
    before = files_of(tmp_path / "run")
    refused = resumed(bitgraph, arguments, tmp_path, "--max-steps", 2, *options)
    assert refused.code == 2
    assert said in refused.err.splitlines()[-1]
    assert files_of(tmp_path / "run") == before
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    content = bytearray((checkpoint / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "optimizer.safetensors").write_bytes(content)
    damaged = resumed(bitgraph, arguments, tmp_path, "--max-steps", 2)
    assert damaged.code == 2
    assert f"the checkpoint {checkpoint} is damaged" in damaged.err.splitlines()[-1]
    assert f"remove {checkpoint}" in damaged.err.splitlines()[-1]


def test_other_examples_are_refused(bitgraph, arguments, tmp_path):
    assert resumed(bitgraph, arguments, tmp_path, "--max-steps", 2).code == 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"instruction": "a", "output": "b"}] * 6))
    for option, said in (("--data", "training"), ("--eval-data", "evaluation")):
        refused = resumed(bitgraph, arguments, tmp_path, "--max-steps", 2, option, other)
        assert refused.code == 2
        assert f"other {said} examples ({option}" in refused.err.splitlines()[-1]
