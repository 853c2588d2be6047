"""`bitgraph eval`: loss and perplexity, with and without an adapter."""

import json
import math

import pytest
from runs import read_metrics


@pytest.fixture
def evaluated(bitgraph, model, data):
    """The rows of the table, by the adapters' names, and the whole output."""

    def run(*arguments):
        result = bitgraph(
            "eval", "--model", model, "--data", data, "--backend", "numpy", *arguments
        )
        assert result.code == 0, result.err
        rows = [line.rsplit(None, 2) for line in result.out.splitlines()[1:]]
        return {name.strip(): (float(loss), float(p)) for name, loss, p in rows}, result.err

    return run


@pytest.fixture
def adapter(bitgraph, model, data, tmp_path):
    """A run whose metrics hold the loss on the same data before and after."""
    result = bitgraph(
        "train", "--model", model, "--data", data, "--eval-data", data, "--out", tmp_path / "run",
        "--backend", "numpy", "--epochs", 4, "--lr", 1e-2, "--batch-size", 3, "--rank", 4,
    )  # fmt: skip
    assert result.code == 0, result.err
    return tmp_path / "run"


def test_both_losses_are_those_of_training(evaluated, adapter, tmp_path):
    before, after = (
        record["loss"] for record in read_metrics(adapter) if record["event"].startswith("eval")
    )
    rows, said = evaluated("--lora", adapter, "--out", tmp_path / "each.jsonl", "--batch-size", 4)
    assert "6 examples" in said
    assert rows["none"] == pytest.approx((before, math.exp(before)), abs=6e-5, rel=1e-4)
    assert rows["run"] == pytest.approx((after, math.exp(after)), abs=6e-5, rel=1e-3)
    records = [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]
    for name in ("example", "record"):
        assert [record[name] for record in records] == [1, 2, 3, 4, 5, 6]
    tokens = [record["tokens"] for record in records]
    for name, whole in (("without", before), ("with", after)):
        losses = [record[f"loss_{name}"] for record in records]
        weighted = sum(map(lambda n, loss: n * loss, tokens, losses)) / sum(tokens)
        assert weighted == pytest.approx(whole, rel=1e-4)


def test_without_an_adapter_there_is_one_loss(evaluated, tmp_path):
    rows, _ = evaluated("--out", tmp_path / "each.jsonl")
    assert list(rows) == ["none"]
    assert "loss_with" not in (tmp_path / "each.jsonl").read_text().splitlines()[0].split('"')


def test_a_scale_of_zero_is_no_adapter(evaluated, adapter):
    rows, _ = evaluated("--lora", f"half={adapter}@0")
    assert rows["half"] == rows["none"]


def test_what_cannot_be_evaluated(bitgraph, model, data, tmp_path):
    for arguments, said in (
        (("--max-seq-len", 513), "context"),
        (("--lora", tmp_path / "none"), str(tmp_path / "none")),
        (("--data", tmp_path / "none"), str(tmp_path / "none")),
    ):
        out = tmp_path / "out"
        given = ("--model", model, "--data", data, "--backend", "numpy", "--out", out, *arguments)
        result = bitgraph("eval", *given)
        assert result.code == 2
        assert said in result.err
        assert result.err.count("\n") == 1
        assert not out.exists()
