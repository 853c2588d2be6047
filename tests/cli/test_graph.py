"""`bitgraph graph`: a training step in every format, and what is refused."""

import json
from xml.etree import ElementTree as ET

import pytest
from bitgraph.graph.text import parse_graph
from bitgraph.graph.verify import verify
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.forward import embedding_dtype
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.stages import stage_graph

TINY = ("--preset", "tiny", "--tokens", 8)
SUFFIXES = ("dot", "svg", "graphml", "json", "html", "txt", "msgpack")


def refusal(result):
    """The one sentence of a refused command."""
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("bitgraph: ")
    assert result.err.count("\n") == 1
    return result.err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_suffix_tells_the_format(bitgraph, tmp_path, suffix):
    out, again = tmp_path / f"step.{suffix}", tmp_path / "again"
    result = bitgraph("graph", *TINY, "-o", out)
    assert (result.code, result.err) == (0, "")
    assert f"{out.stat().st_size:,} bytes" in result.out
    form = {"txt": "text"}.get(suffix, suffix)
    assert bitgraph("graph", *TINY, "--format", form, "-o", again).code == 0
    assert again.read_bytes() == out.read_bytes()


def test_the_joint_graph_is_that_of_training(bitgraph, model, tmp_path):
    out = tmp_path / "step.txt"
    assert bitgraph("graph", "--model", model, "--rank", 4, "--tokens", 16, "-o", out).code == 0
    checkpoint = load_checkpoint(model)
    embedding = embedding_dtype(checkpoint.weights)
    options = TrainingOptions(rank=4)
    graph = parse_graph(out.read_text())
    verify(graph)
    assert graph == stage_graph(checkpoint.config, options, 16, "joint", embedding)
    assert {alias.donated for alias in graph.aliases} >= {"layers.0.mlp.up_proj.lora_A.weight"}


def test_the_fused_graph_is_the_one_before_with_fewer_nodes(bitgraph, tmp_path):
    joint, fused = tmp_path / "joint.txt", tmp_path / "fused.txt"
    assert bitgraph("graph", *TINY, "--stage", "checkpointed", "-o", joint).code == 0
    assert bitgraph("graph", *TINY, "--stage", "fused", "-o", fused).code == 0
    before, after = parse_graph(joint.read_text()), parse_graph(fused.read_text())
    assert not any(node.op == "fused" for node in before.nodes)
    assert any(node.op == "fused" for node in after.nodes)
    assert before.outputs == after.outputs
    assert sum(body_size(node) for node in after.nodes) == len(before.nodes)


def test_a_budget_shows_what_is_recomputed(bitgraph, tmp_path):
    out, plain = tmp_path / "step.json", tmp_path / "plain.json"
    stage = ("--preset", "tiny", "--tokens", 512, "--stage", "checkpointed")
    assert bitgraph("graph", *stage, "-o", plain).code == 0
    assert bitgraph("graph", *stage, "--memory-budget", "10MiB", "-o", out).code == 0
    categories = [
        [node["category"] for node in json.loads(path.read_text())["nodes"]]
        for path in (plain, out)
    ]
    assert set(categories[0]) == set(categories[1])
    assert 0 < categories[0].count("recomputed") < categories[1].count("recomputed")
    said = refusal(bitgraph("graph", *stage, "--memory-budget", "1KiB", "-o", tmp_path / "no.svg"))
    assert "the smallest that works is" in said


def body_size(node):
    """Nodes that a node stands for."""
    return len(parse_graph(node.attributes["body"]).nodes) if node.op == "fused" else 1


def test_the_forward_graph_has_no_adapters_and_returns_the_loss(bitgraph, tmp_path):
    out = tmp_path / "loss.txt"
    assert bitgraph("graph", *TINY, "--stage", "forward", "-o", out).code == 0
    graph = parse_graph(out.read_text())
    assert [value.name for value in graph.outputs] == ["loss"]
    assert not any("lora" in item.value.name for item in graph.inputs)


def test_the_schedule_is_planned_without_a_device(bitgraph, tmp_path):
    text, data, picture = (tmp_path / f"schedule.{suffix}" for suffix in ("txt", "json", "svg"))
    for out in (text, data, picture):
        assert bitgraph("graph", *TINY, "--stage", "schedule", "-o", out).code == 0
    assert "\nschedule @bitnet_loss {\n" in text.read_text()
    schedule = json.loads(data.read_text())["schedule"]
    assert len(schedule["dispatches"]) == text.read_text().count(" groups=")
    titles = {e.text for e in ET.parse(picture).iter() if e.tag.endswith("title")}
    (first, *_) = schedule["spans"][0]["names"]
    assert any(title and title.startswith(first) for title in titles)


def test_the_schedule_follows_the_limits(bitgraph, tmp_path):
    plain, units = tmp_path / "plain.txt", tmp_path / "units.txt"
    assert bitgraph("graph", *TINY, "--stage", "schedule", "-o", plain).code == 0
    options = ("--stage", "schedule", "--limits", "h100")
    assert bitgraph("graph", *TINY, *options, "-o", units).code == 0
    assert plain.read_text() != units.read_text()


def test_a_scope_is_opened(bitgraph, tmp_path):
    out = tmp_path / "step.svg"
    assert bitgraph("graph", *TINY, "--open", "layers.0/mlp", "-o", out).code == 0
    texts = [e.text for e in ET.parse(out).iter() if e.tag.endswith("text")]
    assert "squared_relu" in texts
    assert "attention" not in texts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--preset", "tiny", "--stage", "melted"), "'melted' is not one of 'forward', 'joint'"),
        (("--preset", "tiny", "--format", "png"), "'png' is not one of"),
        (("--preset", "huge"), "'huge' is not one of"),
        (("--preset", "tiny", "--tokens", "0"), "0 is not in the range"),
    ],
)
def test_a_word_that_is_not_known_is_refused_by_its_option(bitgraph, tmp_path, options, said):
    result = bitgraph("graph", *options, "-o", tmp_path / "out.svg")
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ((), "out.svg", "give either --model or --preset"),
        (("--preset", "tiny", "--model", "m.gguf"), "out.svg", "give either --model or --preset"),
        (("--model", "m.gguf", "--layers", "1"), "out.svg", "--layers changes a --preset"),
        (("--model", "missing.gguf"), "out.svg", "missing.gguf"),
        (TINY, "out.png", "does not tell a format"),
        (TINY, "out", "does not tell a format"),
        ((*TINY, "--open", "layers.9"), "out.svg", "there is no scope 'layers.9' to open"),
        ((*TINY, "--open", "layers.9"), "out.html", "there is no scope 'layers.9' to open"),
        ((*TINY, "--open", "loss"), "out.dot", "have scopes to open"),
        ((*TINY, "--stage", "schedule", "--open", "loss"), "out.svg", "have scopes to open"),
        ((*TINY, "--stage", "schedule"), "out.msgpack", "msgpack holds graphs, not schedules"),
        ((*TINY, "--rank", "0"), "out.svg", "rank (0) must be at least 1"),
        ((*TINY, "--target", "w_proj"), "out.svg", "w_proj"),
        ((*TINY, "--device", "no such GPU", "--stage", "schedule"), "out.svg", "no such GPU"),
        (
            (*TINY, "--device", "0", "--limits", "h100", "--stage", "schedule"),
            "out.svg",
            "--limits",
        ),
        (TINY, "missing/out.svg", "missing/out.svg could not be written"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(bitgraph, tmp_path, options, name, said):
    assert said in refusal(bitgraph("graph", *options, "-o", tmp_path / name))
    assert not any(tmp_path.iterdir())


def test_a_file_that_cannot_be_replaced_is_kept(bitgraph, tmp_path):
    folder = tmp_path / "out.svg"
    folder.mkdir()
    assert str(folder) in refusal(bitgraph("graph", *TINY, "-o", folder))
    assert [path.name for path in tmp_path.iterdir()] == ["out.svg"]
