"""`bitgraph train`: what a run leaves behind and what its options do."""

import json
import math

import numpy as np
import pytest
from bitgraph.graph.ir import Role
from bitgraph.graph.text import parse_graph
from bitgraph.graph.verify import verify
from bitgraph.models.adapters.peft import load_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import PROJECTIONS
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.data.encoding import EncodingOptions
from bitgraph.models.data.source import prepare
from runs import RECORDS, files_of, read_metrics

WEIGHTS = "adapter_model.safetensors"
QUICK = ("--backend", "numpy", "--rank", 4, "--batch-size", 3, "--warmup", 0)


def steps(folder):
    return [record for record in read_metrics(folder) if record["event"] == "step"]


def evaluations(folder):
    return [record for record in read_metrics(folder) if record["event"] == "eval"]


@pytest.fixture
def train(bitgraph, model, data, tmp_path):
    """Train into a folder of that name with a small rank and few examples a step."""

    def run(name, *options):
        out = tmp_path / name
        result = bitgraph("train", "--model", model, "--data", data, "--out", out, *QUICK, *options)
        assert result.code == 0, result.err
        assert result.out == ""
        return out

    return run


def test_a_run_trains_every_adapter_and_lowers_the_loss(train, model):
    out = train("run", "--epochs", 8, "--lr", 1e-2, "--alpha", 8)
    adapter = load_adapter(out)
    assert (adapter.rank, adapter.alpha, adapter.base_model) == (4, 8.0, str(model))
    assert set(adapter.target_modules) == set(PROJECTIONS)
    assert len(adapter.modules) == 2 * len(PROJECTIONS)
    for name, tensor in adapter.tensors.items():
        assert np.abs(tensor).max() > 0, name  # B began as zeros
    losses = [step["loss"] for step in steps(out)]
    assert len(losses) == 16
    assert losses[0] == pytest.approx(math.log(320), abs=0.5)
    assert np.mean(losses[-2:]) < losses[0] - 1


def test_metrics_tell_the_whole_run(train, model, data):
    out = train("run", "--epochs", 2, "--lr", 3e-3, "--warmup", 1, "--samples", 0)
    start, of_data, *reports, saving = read_metrics(out)
    assert (start["event"], of_data["event"]) == ("start", "data")
    assert saving == {"event": "checkpoint", "step": 4}
    assert (start["model"], start["data"]) == (str(model), str(data))
    assert (start["rank"], start["batch_size"], start["seed"]) == (4, 3, 0)
    assert [report["step"] for report in reports] == [1, 2, 3, 4]
    assert {report["total"] for report in reports} == {4}
    tokenizer = Tokenizer.from_metadata(load_checkpoint(model).metadata, str(model))
    examples = prepare(data, tokenizer, EncodingOptions(512)).encoded.examples
    tokens = sum(example.tokens.size for example in examples)
    supervised = sum(int(example.trained.sum()) for example in examples)
    assert sum(report["tokens"] for report in reports) == 2 * tokens
    assert sum(report["supervised"] for report in reports) == 2 * supervised
    cosine = [0.5 * (1 + math.cos(math.pi * step / 3)) for step in (0, 1, 2, 3)]
    assert [report["lr"] for report in reports] == pytest.approx([3e-3 * c for c in cosine])
    for report in reports:
        assert report["seconds"] > 0
        assert report["grad_norm"] > 0
        assert math.isfinite(report["loss"])


def test_the_same_seed_gives_the_same_bytes(train):
    first, second = (train(name, "--epochs", 2, "--seed", 7) for name in ("first", "second"))
    other = train("other", "--epochs", 2, "--seed", 8)
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()
    assert (first / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()


def test_max_steps_ends_a_run_early(train):
    out = train("run", "--epochs", 50, "--max-steps", 3)
    assert [(step["step"], step["total"]) for step in steps(out)] == [(1, 3), (2, 3), (3, 3)]
    assert steps(out)[-1]["lr"] == 0.0  # the schedule ends with the run


def test_only_the_targets_are_trained(train):
    out = train("run", "--max-steps", 1, "--target", "q_proj, down_proj")
    adapter = load_adapter(out)
    assert set(adapter.modules) == {
        f"layers.{layer}.{module}"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "mlp.down_proj")
    }
    assert json.loads((out / "adapter_config.json").read_text())["target_modules"] == [
        "q_proj",
        "down_proj",
    ]


def test_held_out_loss_is_taken_before_and_after(train, data, tmp_path):
    held_out = tmp_path / "eval.json"
    held_out.write_text(json.dumps(RECORDS[:4]))
    out = train("run", "--epochs", 6, "--lr", 1e-2, "--eval-data", held_out)
    before, after = evaluations(out)
    assert (before["step"], after["step"]) == (0, 12)
    assert after["loss"] < before["loss"] - 0.5


def test_held_out_loss_is_that_of_a_step_on_the_same_records(train, data):
    """Over all records at once, and with a rate of zero it stays."""
    out = train("run", "--batch-size", 6, "--max-steps", 1, "--lr", 0, "--eval-data", data)
    before, after = evaluations(out)
    assert before["loss"] == after["loss"]
    assert before["loss"] == pytest.approx(steps(out)[0]["loss"], rel=1e-6)


def test_clipping_and_weight_decay_change_the_result(train):
    plain, clipped, decayed = (
        load_adapter(train(name, "--epochs", 2, "--lr", 1e-2, *options)).tensors
        for name, options in (
            ("plain", ()),
            ("clipped", ("--max-grad-norm", 1e-3)),
            ("decayed", ("--weight-decay", 20)),
        )
    )
    a, b = (f"layers.0.mlp.up_proj.lora_{half}.weight" for half in "AB")
    assert np.linalg.norm(plain[b] - clipped[b]) > 0.01 * np.linalg.norm(plain[b])
    assert np.linalg.norm(decayed[a]) < 0.8 * np.linalg.norm(plain[a])


def test_dumps_hold_a_graph_for_every_pass(train, tmp_path):
    train("run", "--max-steps", 2, "--dump-passes", tmp_path / "dumps")
    assert (tmp_path / "dumps" / "index.html").exists()
    *_, total = (tmp_path / "dumps" / "timing.txt").read_text().splitlines()
    assert float(total.split()[1]) > 0
    files = sorted((tmp_path / "dumps").glob("[0-9]*.txt"))
    passes = ("input", "lora", "grad", "adamw", "cse", "dce", "checkpoint", "fuse")
    names = [f"{number:02d}-{name}" for number, name in enumerate(passes)]
    assert [file.stem for file in files] == [*names, "08-schedule"]
    *files, schedule = files
    assert schedule.read_text().startswith("stages @bitnet_loss {\n  sweep of ")
    graphs = [parse_graph(file.read_text()) for file in files]
    for file, graph in zip(files, graphs, strict=True):
        verify(graph)
        assert str(graph) == file.read_text()
    assert not graphs[0].inputs_of(Role.PARAM)
    assert len(graphs[1].inputs_of(Role.PARAM)) == 28  # A and B of seven modules in two layers
    assert "lr" in {value.name for value in graphs[3].inputs_of(Role.INPUT)}
    assert len(graphs[5].nodes) <= len(graphs[3].nodes)


def test_an_adapter_is_replaced_only_when_told(bitgraph, train, model, data):
    out = train("run", "--max-steps", 2)
    before = files_of(out)
    again = ("train", "--model", model, "--data", data, "--out", out, *QUICK, "--max-steps", 1)
    result = bitgraph(*again)
    assert result.code == 2
    assert "already holds an adapter" in result.err
    assert files_of(out) == before
    assert bitgraph(*again, "--force").code == 0
    assert (out / WEIGHTS).read_bytes() != before[WEIGHTS]
    assert len(steps(out)) == 1  # metrics of the new run alone


def test_what_is_cut_and_skipped_is_said(bitgraph, model, tmp_path):
    records = [*RECORDS[:2], {"instruction": "Nothing?", "output": " "}]
    records.append({"instruction": "Long?", "output": "long " * 200})
    data = tmp_path / "data.json"
    data.write_text(json.dumps(records))
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", tmp_path / "run", *QUICK,
        "--max-steps", 1, "--max-seq-len", 200,
    )  # fmt: skip
    assert result.code == 0
    assert "3 examples" in result.err
    assert "1 cut to 200 tokens, 1 skipped without a response" in result.err


def test_names_that_look_like_markup_are_shown_as_they_are(bitgraph, model, data, tmp_path):
    out = tmp_path / "[bold]run[/red] :smile:"
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", out, *QUICK, "--max-steps", 1
    )
    assert result.code == 0, result.err
    assert f"written to {out}\n" in result.err


def test_a_memory_budget_changes_no_bit_and_is_explained(train, bitgraph, model, data, tmp_path):
    plain = train("plain", "--max-steps", 3)
    out = tmp_path / "tight"
    options = (*QUICK, "--max-steps", 3, "--memory-budget")
    places = ("--model", model, "--data", data, "--out", out)
    refused = bitgraph("train", *places, *options, "1KiB")
    assert refused.code == 2
    assert "a memory budget of 1KiB is too small" in refused.err
    assert not (out / WEIGHTS).exists()
    smallest = refused.err.strip().rsplit(" ", 1)[-1]
    result = bitgraph("train", *places, *options, smallest)
    assert result.code == 0, result.err
    assert "more to compute" in result.err
    assert "layer 0 saves " in result.err or "layers 0-1 save " in result.err
    assert (out / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    assert [step["loss"] for step in steps(out)] == [step["loss"] for step in steps(plain)]
