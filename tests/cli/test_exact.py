"""`bitgraph eval --exact`: answers to records that name their task."""

import json

import pytest

TASKS = [
    {"instruction": "Say a.", "input": "", "output": "a", "task": "one"},
    {"instruction": "Say b.", "output": "b", "task": "two"},
    {"instruction": "Say c.", "input": "c", "output": "c", "task": "one"},
]


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam.json"
    path.write_text(json.dumps(TASKS))
    return path


@pytest.fixture
def answers(bitgraph, model, exam, tmp_path):
    def ask(*options):
        out = tmp_path / "answers.jsonl"
        common = ("--model", model, "--data", exam, "--out", out, "--exact", "--backend", "numpy")
        result = bitgraph("eval", *common, "--max-tokens", 4, *options)
        assert result.code == 0, result.err
        return result.out, [json.loads(line) for line in out.read_text().splitlines()]

    return ask


def rows(table):
    return {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}


def test_the_answers_are_those_that_generate_gives(answers, bitgraph, model):
    table, records = answers()
    assert [
        {key: record[key] for key in item} for record, item in zip(records, TASKS, strict=True)
    ] == TASKS
    for record, prompt in zip(records, ("Say a.", "Say b.", "Say c.\n\nc"), strict=True):
        assert set(record) == {"instruction", "input", "output", "task", "answer_without"}
        if record["input"]:
            continue
        said = bitgraph(
            "generate", "--model", model, "--template", "alpaca", "--max-tokens", 4,
            "--backend", "numpy", prompt,
        )  # fmt: skip
        assert said.out.rstrip("\n") == record["answer_without"].rstrip("\n")
    assert rows(table)["one"] == ["2", "0", "(0.0%)"]
    assert rows(table)["all"] == ["3", "0", "(0.0%)"]


def test_right_answers_are_counted_task_by_task(answers, exam):
    _, records = answers()
    right = [
        {**item, "output": r["answer_without"]} for item, r in zip(TASKS, records, strict=True)
    ]
    right[2]["output"] += "x"
    exam.write_text(json.dumps(right))
    table, _ = answers("--batch-size", 2)
    assert rows(table)["one"] == ["2", "1", "(50.0%)"]
    assert rows(table)["two"] == ["1", "1", "(100.0%)"]
    assert rows(table)["all"] == ["3", "2", "(66.7%)"]


def test_an_adapter_gets_a_column_of_its_own(answers, bitgraph, model, data, tmp_path):
    out = tmp_path / "adapter"
    trained = bitgraph(
        "train", "--model", model, "--data", data, "--out", out, "--backend", "numpy",
        "--max-steps", 3, "--lr", 0.1, "--warmup", 0, "--schedule", "constant", "--samples", 0,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    table, records = answers("--lora", out)
    assert table.split()[:4] == ["task", "records", "without", "with"]
    assert any(record["answer_with"] != record["answer_without"] for record in records)
    _, alone = answers()
    assert [r["answer_without"] for r in alone] == [r["answer_without"] for r in records]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"instruction": "a", "output": "b"}]', "record 1 lacks 'task'"),
        ('{"instruction": "a", "output": "b", "task": 3}\n', "record 1 lacks 'task'"),
        ('[{"messages": [{"role": "user", "content": "a"}]}]', "record 1 lacks 'instruction'"),
    ],
)
def test_records_without_a_task_are_refused(bitgraph, model, tmp_path, content, said):
    path = tmp_path / "exam.json"
    path.write_text(content)
    result = bitgraph("eval", "--model", model, "--data", path, "--exact", "--backend", "numpy")
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_text_has_no_answers(bitgraph, model, tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text("some text\n")
    result = bitgraph("eval", "--model", model, "--data", path, "--exact", "--backend", "numpy")
    assert result.code == 2
    assert "exact matches are counted on records" in result.err
