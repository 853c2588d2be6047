"""A run that was killed and taken up again ends in the bits of one that was never stopped."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from killable import start
from runs import files_of, results, without_times

KILLS = 50 if os.environ.get("BITGRAPH_SLOW_TESTS") else 4
OPERATIONS_OF_A_CHECKPOINT = 45  # roughly


@pytest.fixture(params=["numpy", "vulkan"])
def backend(request):
    if request.param == "vulkan":
        request.getfixturevalue("lavapipe")
    return request.param


def records_so_far(folder):
    """The file of the records, which a run that goes on makes anew, and how many are in it."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            return os.fstat(file.fileno()).st_ino, file.read().count(b"\n")
    except FileNotFoundError:
        return 0, 0


def kill_behind(process, folder, before, records, seconds):
    """Kill a process some time after it has told a number of records.

    Args:
        process: to be killed.
        folder: where its run is.
        before: the file of the records before the process began.
        records: to wait for; with none, the process is killed while it starts.
        seconds: to wait behind them.
    """
    begun = None
    while records and process.exitcode is None:
        file, told = records_so_far(folder)
        if file != before:
            begun = told if begun is None else begun
            if told - begun >= records - 1:
                break
        time.sleep(0.002)
    process.join(seconds)
    process.kill()


def test_a_run_killed_at_random_moments_ends_in_the_same_bits(backend, small_run, tmp_path):
    """Every other time while a checkpoint is written, before one of the operations on files."""
    errors = tmp_path / "errors"
    undisturbed = start(small_run(backend, tmp_path / "whole"), errors)
    undisturbed.join(300)
    assert undisturbed.exitcode == 0, errors.read_text()
    rng, attempt, kills = random.Random(0), 0, {"in a checkpoint": 0, "anywhere": 0}
    while sum(kills.values()) < KILLS:
        out, attempt, ended = tmp_path / f"run{attempt}", attempt + 1, None
        while ended != 0:
            left = KILLS - sum(kills.values())
            kind = min(kills, key=kills.__getitem__)
            inside = left and kind == "in a checkpoint"
            operation = rng.randrange(1, 2 * OPERATIONS_OF_A_CHECKPOINT) if inside else 0
            before, _ = records_so_far(out)
            process = start((*small_run(backend, out), "--resume"), errors, operation)
            if left and not inside:
                kill_behind(process, out, before, rng.randrange(0, 12), rng.uniform(0, 0.3))
            process.join(300)
            ended = process.exitcode
            assert ended in (0, -signal.SIGKILL), errors.read_text()
            kills[kind] += ended != 0
        assert results(out) == results(tmp_path / "whole")
        assert without_times(out) == without_times(tmp_path / "whole")
    print(f"{backend}: killed {kills}, {attempt} runs")


def resumed(bitgraph, small_run, tmp_path, *options):
    return bitgraph(*small_run("numpy", tmp_path / "run"), "--resume", *options)


def test_without_a_checkpoint_it_begins_and_when_over_it_changes_nothing(
    bitgraph, small_run, tmp_path
):
    first = resumed(bitgraph, small_run, tmp_path)
    assert first.code == 0, first.err
    assert "has no checkpoint yet" in first.err
    before = results(tmp_path / "run")
    again = resumed(bitgraph, small_run, tmp_path)
    assert again.code == 0, again.err
    assert "holds a run that ended behind step" in again.err
    assert results(tmp_path / "run") == before


def test_what_a_killed_process_had_not_removed_yet_is_removed(bitgraph, small_run, tmp_path):
    """It was killed behind its last checkpoint, before it removed the oldest."""
    assert resumed(bitgraph, small_run, tmp_path).code == 0
    before, folder = results(tmp_path / "run"), tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-00000010", folder / "step-00000008")
    shutil.copytree(folder / "step-00000010", folder / "step-00000009.partial")
    assert resumed(bitgraph, small_run, tmp_path).code == 0
    assert results(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank", 8), "rank was 4, not 8"),
        (("--dropout", 0.1), "dropout was 0.2, not 0.1"),
        (("--seed", 3), "seed was 0, not 3"),
        (("--max-seq-len", 63), "max-seq-len was 64, not 63"),
    ],
)
def test_another_run_is_refused_and_a_damaged_checkpoint_too(
    bitgraph, small_run, tmp_path, options, said
):
    assert resumed(bitgraph, small_run, tmp_path, "--max-steps", 2).code == 0
    before = files_of(tmp_path / "run")
    refused = resumed(bitgraph, small_run, tmp_path, "--max-steps", 2, *options)
    assert refused.code == 2
    assert said in refused.err.splitlines()[-1]
    assert files_of(tmp_path / "run") == before
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    content = bytearray((checkpoint / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "optimizer.safetensors").write_bytes(content)
    damaged = resumed(bitgraph, small_run, tmp_path, "--max-steps", 2)
    assert damaged.code == 2
    assert f"the checkpoint {checkpoint} is damaged" in damaged.err.splitlines()[-1]
    assert f"remove {checkpoint}" in damaged.err.splitlines()[-1]


def test_other_examples_are_refused(bitgraph, small_run, tmp_path):
    assert resumed(bitgraph, small_run, tmp_path, "--max-steps", 2).code == 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"text": "a"}] * 6))
    for option, said in (("--data", "training"), ("--eval-data", "evaluation")):
        refused = resumed(bitgraph, small_run, tmp_path, "--max-steps", 2, option, other)
        assert refused.code == 2
        assert f"other {said} examples ({option}" in refused.err.splitlines()[-1]
