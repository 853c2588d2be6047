"""`bitgraph bench`: what it prints, writes and refuses, on models that take milliseconds."""

import json
import sys

import pytest
from bitgraph.cli.bench import command, sides
from bitgraph.cli.bench.random_models import random_model
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.presets import preset_config

NUMPY = ("--backend", "numpy")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(bitgraph, target, *words):
    result = bitgraph("bench", *words, "--json", target)
    return result, json.loads(target.read_text()) if target.exists() else None


def test_training(bitgraph, model, tmp_path):
    shape = ("--batch", 2, "--length", 24, "--steps", 3)
    result, record = run(bitgraph, tmp_path / "t.json", "train", "--model", model, *NUMPY, *shape)
    assert result.code == 0, result.err
    assert "train 2 x 24" in result.out
    (found,) = record["results"]
    assert found["side"] == "numpy"
    least, low, high, most = found["step_seconds_spread"]
    assert 0 < least <= low <= found["step_seconds"] <= high <= most
    assert found["tokens_per_second"] == pytest.approx(48 / found["step_seconds"])
    # 8 leading tokens of each example carry no label.
    assert found["supervised_per_second"] == pytest.approx(32 / found["step_seconds"])
    assert found["memory_host"] > 1 << 20


def test_decoding_and_prefill(bitgraph, model, tmp_path):
    words = ("--model", model, *NUMPY, "--rounds", 2, "--prompt", 20)
    result, record = run(bitgraph, tmp_path / "d.json", "decode", *words, "--tokens", 6)
    assert result.code == 0, result.err
    assert [r["lora"] for r in record["results"]] == [False, True]
    assert [r["job"] for r in record["results"]] == [
        "decode without adapter",
        "decode with adapter",
    ]
    words = (*words, "--adapter", "without")
    result, record = run(bitgraph, tmp_path / "p.json", "prefill", *words)
    (found,) = record["results"]
    assert found["tokens_per_second"] == pytest.approx(20 / found["prefill_seconds"])


def test_the_first_step_and_its_parts(bitgraph, model, tmp_path):
    words = ("start", "--model", model, *NUMPY, "--batch", 1, "--length", 16, "--rounds", 1)
    result, record = run(bitgraph, tmp_path / "s.json", *words)
    assert result.code == 0, result.out
    (found,) = record["results"]
    parts = found["parts"]
    assert {"interpreter", "imports", "open the file", "tokenizer", "passes"} <= parts.keys()
    assert all(seconds >= 0 for seconds in parts.values())
    # Clocks run one after the other, so the parts add up to the whole.
    assert sum(parts.values()) == pytest.approx(found["first_step_seconds"], rel=0.05, abs=0.05)


def test_a_random_model_is_made_once(cache):
    config = preset_config("tiny", num_hidden_layers=1)
    path = random_model(config)
    assert path.is_relative_to(cache)
    assert load_checkpoint(path).config == config
    made = path.stat().st_mtime_ns
    assert random_model(config).stat().st_mtime_ns == made
    assert random_model(preset_config("tiny")) != path


def test_a_side_that_fails_is_reported_and_the_next_one_runs(bitgraph, model, tmp_path):
    words = ("train", "--model", model, *NUMPY, "--length", 16, "--batch", 1, "--steps", 1)
    other = ("--against", "torch", "--torch-python", tmp_path / "nothing")
    result, record = run(bitgraph, tmp_path / "f.json", *words, *other)
    assert result.code == 1
    first, second = record["results"]
    assert "step_seconds" in first
    assert second["name"] == "PyTorch"
    assert "nothing" in second["error"]
    assert "FAILED" in result.out


def test_a_sentence_of_a_side_is_the_error(bitgraph, model, tmp_path):
    words = ("train", "--model", model, *NUMPY, "--length", 4096, "--steps", 1)
    result, record = run(bitgraph, tmp_path / "f.json", *words)
    assert result.code == 1
    assert record["results"][0]["error"].startswith("max-seq-len is 4096, but the model's context")
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--layers", 1), "--layers changes a --preset"),
        (("--compile",), "add --against torch"),
        (("--against", "numpy"), "compares with another --backend"),
        (("--profile",), "kernels are those of --backend vulkan"),
    ],
)
def test_options_that_do_not_go_together(bitgraph, model, words, said):
    result = bitgraph("bench", "train", "--model", model, *NUMPY, *words)
    assert result.code == 2
    assert said in result.err


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('one sentence')", "one sentence"),
        ("import time; time.sleep(60)", "not done within 0.5 s"),
        ("print('no JSON')", "no result in its output: no JSON"),
        ("import os; os._exit(3)", "ended with status 3"),
    ],
)
def test_how_a_process_can_end_without_a_result(script, said):
    side = sides.Side("a side", "job", {}, (sys.executable, "-c", script))
    timeout = 0.5 if "sleep" in script else 30
    assert side.run(timeout) == {"name": "a side", "error": said}


def test_medians_of_the_rounds_behind_the_first():
    def timed(seconds, passes):
        return {"name": "x", "side": "x", "seconds": seconds, "parts": {"passes": passes}}

    found = command._first_steps([timed(9.0, 8.0), timed(1.0, 0.5), timed(3.0, 0.7), timed(2.0, 1)])
    assert found["first_step_seconds"] == 2.0
    assert found["first_round_seconds"] == 9.0
    assert found["parts"] == {"passes": 0.7}
    broken = [timed(1.0, 1.0), {"name": "x", "error": "lost"}]
    assert command._first_steps(broken) == {"name": "x", "error": "lost"}
