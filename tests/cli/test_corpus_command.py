"""`bitgraph corpus`."""

import json
from collections import Counter

import pytest

PARTS = ("train", "eval", "skill_train", "skill_eval")


def read(folder):
    return {part: json.loads((folder / f"{part}.json").read_text()) for part in PARTS}


def test_the_table_counts_what_the_files_hold(bitgraph, tmp_path):
    result = bitgraph("corpus", "--seed", 3, "--out", tmp_path / "new", "--records", 50)
    assert result.code == 0, result.err
    header, *rows = [line.split() for line in result.out.splitlines()]
    assert header == ["task", *PARTS]
    counts = {
        part: Counter(r["task"] for r in records)
        for part, records in read(tmp_path / "new").items()
    }
    shown = {task: [int(count.replace(",", "")) for count in row] for task, *row in rows}
    assert shown.pop("all") == [counts[part].total() for part in PARTS]
    assert shown == {task: [counts[part][task] for part in PARTS] for task in shown}
    assert counts["train"].total() == 50
    assert counts["skill_eval"].total() == 200
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        f"{part}.json" for part in PARTS
    }


def test_a_seed_gives_the_same_files_and_another_gives_others(bitgraph, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert (
            bitgraph("corpus", "--seed", seed, "--out", tmp_path / name, "--records", 9).code == 0
        )
    for part in PARTS:
        first, again, other = ((tmp_path / n / f"{part}.json").read_bytes() for n in "abc")
        assert first == again != other


def test_files_are_replaced_only_if_asked(bitgraph, tmp_path):
    precious = tmp_path / "eval.json"
    precious.write_text("precious")
    command = ("corpus", "--out", tmp_path, "--records", 5)
    result = bitgraph(*command)
    assert (result.code, "--force" in result.err, result.err.count("\n")) == (2, True, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]
    assert precious.read_text() == "precious"
    assert bitgraph(*command, "--force").code == 0
    assert len(read(tmp_path)["train"]) == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--records", 0), "0 is not in the range"),
        (("--seed", -1), "-1 is not in the range"),
    ],
)
def test_numbers_out_of_range(bitgraph, tmp_path, options, said):
    result = bitgraph("corpus", "--out", tmp_path / "new", *options)
    assert (result.code, said in result.err) == (2, True)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(bitgraph, tmp_path):
    (tmp_path / "file").write_text("")
    result = bitgraph("corpus", "--out", tmp_path / "file" / "folder", "--records", 5)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "cannot be used" in result.err
