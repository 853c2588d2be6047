"""`bitgraph eval --exact`: right answers by task, against those that `bitgraph generate` gives."""

import json

import numpy as np
import pytest
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.peft import save_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import projection_shapes

ASKED = ["the time", "Is ice hot?", "é 漢", "of all things", "a", "What was it then?"]
TASKS = ["b", "a", "b", "b", "a", "b"]
LENGTH = ("--max-tokens", 5)


@pytest.fixture
def adapter(model, tmp_path):
    """An adapter that changes every answer."""
    shapes = {
        module: shape
        for module, shape in projection_shapes(load_checkpoint(model).config).items()
        if module.endswith("up_proj")
    }
    rng = np.random.default_rng(0)
    tensors = {
        name: (tensor + rng.standard_normal(tensor.shape)).astype(np.float32)
        for name, tensor in initial_tensors(shapes, 2, 0).items()
    }
    save_adapter(tmp_path / "wild", LoraAdapter(2, 4.0, ("up_proj",), tensors))
    return tmp_path / "wild"


@pytest.fixture
def said(bitgraph, model, tmp_path):
    """What the model says to each, one after the other."""

    def run(*arguments):
        (tmp_path / "asked").write_text("\n".join(ASKED))
        result = bitgraph(
            "generate", "--backend", "numpy", "--model", model, "--template", "alpaca",
            "--prompts", tmp_path / "asked", "--batch-size", 1, *LENGTH, *arguments,
        )  # fmt: skip
        assert result.code == 0, result.err
        return [json.loads(line)["text"] for line in result.out.splitlines()]

    return run


@pytest.fixture
def examined(bitgraph, model, tmp_path):
    """The rows of the table as words, and the lines of the file."""

    def run(outputs, *arguments):
        records = [
            {"instruction": asked, "input": "", "output": output, "task": task}
            for asked, output, task in zip(ASKED, outputs, TASKS, strict=True)
        ]
        (tmp_path / "data.json").write_text(json.dumps(records))
        result = bitgraph(
            "eval", "--backend", "numpy", "--model", model, "--data", tmp_path / "data.json",
            "--exact", "--out", tmp_path / "out", *LENGTH, *arguments,
        )  # fmt: skip
        assert result.code == 0, result.err
        rows = [line.split() for line in result.out.splitlines()]
        return rows, [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]

    return run


@pytest.mark.parametrize("together", [1, 4, 64])
def test_right_answers_are_counted_by_task(examined, said, adapter, together):
    """Three of the base model's answers are the records', and two others of the adapted one's."""
    base, adapted = said(), said("--lora", adapter)
    assert all(one != other for one, other in zip(base, adapted, strict=True))
    outputs = [base[0], base[1], adapted[2], "neither", adapted[4], f"  {base[5]}\n"]
    options = ("--lora", adapter, "--batch-size", together)
    rows, lines = examined(outputs, *options)
    assert rows == [
        ["task", "records", "none", "wild"],
        ["b", "4", "50.0%", "25.0%"],
        ["a", "2", "50.0%", "50.0%"],
        ["all", "6", "50.0%", "33.3%"],
    ]
    assert [line["answer_without"] for line in lines] == base
    assert [line["answer_with"] for line in lines] == adapted
    assert [line["expected"] for line in lines] == outputs
    assert [(line["record"], line["task"]) for line in lines] == list(enumerate(TASKS, 1))


def test_without_an_adapter_there_is_one_column(examined, said):
    rows, lines = examined(said())
    assert rows[-1] == ["all", "6", "100.0%"]
    assert "answer_with" not in lines[0]


def test_answers_are_as_long_as_the_longest_right_one_may_be(bitgraph, model, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"instruction": "a", "output": "xy"}\n')
    options = ("--model", model, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "out")
    result = bitgraph("eval", "--backend", "numpy", "--exact", *options)
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()] == ["task", "other", "all"]
    assert json.loads((tmp_path / "out").read_text())["expected"] == "xy"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.txt", "just text", "plain text"),
        ("d.json", '[{"messages": [{"role": "user", "content": "a"}]}]', "record 1 of 1"),
        ("d.json", json.dumps([{"instruction": "a " * 600, "output": "b"}]), "record 1"),
        ("d.json", "[]", "no records"),
    ],
)
def test_what_cannot_be_asked(bitgraph, model, tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    options = ("--model", model, "--data", tmp_path / name, "--out", tmp_path / "out")
    result = bitgraph("eval", "--backend", "numpy", "--exact", *options)
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
