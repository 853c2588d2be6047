"""`bitgraph tune`: a table of costs, and what uses it."""

import json

import pytest
from bitgraph.graph.text import parse_graph
from bitgraph.passes.checkpoint.costs import read_table, signature

NUMPY = ("--backend", "numpy")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def table(bitgraph, model, cache):
    options = ("--batch-size", 2, "--max-seq-len", 64, "--rank", 4)
    result = bitgraph("tune", "--model", model, *options, *NUMPY)
    assert result.code == 0, result.err
    assert f"on NumPy: {cache / 'costs-numpy.json'}" in result.out.replace("\n", "")
    return cache / "costs-numpy.json"


def step_of(bitgraph, train_options, dumps):
    result = bitgraph("train", *train_options, *NUMPY, "--dump-passes", dumps)
    assert result.code == 0, result.err
    return parse_graph((dumps / "06-checkpoint.txt").read_text())


def test_a_table_holds_every_node_of_a_step(bitgraph, table, model, data, tmp_path):
    costs = read_table(table)
    assert costs.device == "NumPy"
    assert all(seconds > 0 for seconds in costs.measured.values())
    record = json.loads(table.read_text())
    assert set(record) == {"format", "device", "seconds", "factors"}
    out = tmp_path / "run"
    options = ("--model", model, "--data", data, "--out", out, "--rank", 4, "--max-steps", 1)
    graph = step_of(bitgraph, options, tmp_path / "dumps")
    ops = {key.split("(")[0] for key in costs.measured}
    assert {node.op for node in graph.nodes} <= ops
    assert any(signature(node) in costs.measured for node in graph.nodes)


def test_training_weighs_with_the_table(bitgraph, table, model, data, tmp_path):
    """Where the table says that norms cost a lot, it recomputes other values."""

    def recomputed(name):
        options = ("--model", model, "--data", data, "--out", tmp_path / name, "--rank", 4)
        options += ("--max-steps", 1, "--memory-budget", "5MiB")
        graph = step_of(bitgraph, options, tmp_path / f"{name}-dumps")
        return {v.name for n in graph.nodes if "recompute" in n.scope for v in n.outputs}

    before = recomputed("before")
    record = json.loads(table.read_text())
    record["seconds"] = {}
    record["factors"] = {"": 1.0, "rms_norm": 1e6}
    table.write_text(json.dumps(record))
    after = recomputed("after")
    assert "layers.0.mlp.sub_normed.re" in before
    assert "layers.0.mlp.sub_normed.re" not in after
    assert after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a table of costs; write one with `bitgraph tune`"),
        ("[1]", "is not a table of costs"),
        ('{"format": 99}', "is not a table of costs"),
        (
            '{"format": 1, "seconds": {"add": -1}, "factors": {}}',
            "'seconds' does not hold positive",
        ),
        ('{"format": 1, "seconds": {}, "factors": {"": "x"}}', "'factors' does not hold positive"),
    ],
)
def test_a_damaged_table_is_refused(bitgraph, cache, model, data, tmp_path, text, said):
    cache.mkdir()
    (cache / "costs-numpy.json").write_text(text)
    out = tmp_path / "run"
    result = bitgraph("train", "--model", model, "--data", data, "--out", out, *NUMPY)
    assert result.code == 2
    assert said in result.err
    assert "costs-numpy.json" in result.err
    assert not out.exists()
