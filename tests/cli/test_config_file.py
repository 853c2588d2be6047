"""`--config`, and the file of options that a run leaves."""

import tomllib

import pytest
from runs import read_metrics

BASE = """
backend = "numpy"
rank = 4
batch-size = 3
max-seq-len = 256
lr = 1e-3
target = ["q_proj", "v_proj"]
samples = 0
"""


@pytest.fixture
def train(bitgraph, model, data, tmp_path):
    def run(text, name, *options):
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        out = tmp_path / name
        return bitgraph(
            "train", "--config", file, "--model", model, "--data", data, "--out", out, *options
        ), out  # fmt: skip

    return run


def steps(folder):
    return [record for record in read_metrics(folder) if record["event"] == "step"]


def test_a_file_gives_options_and_the_command_line_wins(train):
    result, out = train(BASE + "seed = 5\npack = true\n", "run", "--rank", 2, "--pad")
    assert result.code == 0, result.err
    start = read_metrics(out)[0]
    assert (start["rank"], start["seed"], start["layout"]) == (2, 5, "pad")
    assert start["targets"] == ["q_proj", "v_proj"]


def test_a_run_is_repeated_from_its_own_file(bitgraph, train, tmp_path):
    text = BASE + 'eval-split = 0.34\ndropout = 0.1\nseed = 3\nrank-pattern = "v_proj=2"\n'
    result, first = train(text, "first", "--epochs", 2, "--weight-decay", 0.1)
    assert result.code == 0, result.err
    again = bitgraph("train", "--config", first / "config.toml", "--out", tmp_path / "second")
    assert again.code == 0, again.err
    second = tmp_path / "second"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    losses = [[step["loss"] for step in steps(folder)] for folder in (first, second)]
    assert losses[0] == losses[1]
    kept = [tomllib.loads((folder / "config.toml").read_text()) for folder in (first, second)]
    assert kept[0] == kept[1] | {"out": str(first)}
    other = bitgraph(
        "train", "--config", first / "config.toml", "--out", tmp_path / "third", "--seed", 4
    )
    assert other.code == 0, other.err
    assert [step["loss"] for step in steps(tmp_path / "third")] != losses[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rnk = 4", "there is no option rnk; do you mean rank?"),
        ("[train]\nrank = 4", "there is no option train"),
        ("config = 'a.toml'", "there is no option config"),
        ("max_seq_len = 9", "do you mean max-seq-len?"),
        ("rank = 4.5", "rank must be a whole number, not 4.5"),
        ("rank = true", "rank must be a whole number, not True"),
        ("lr = 'fast'", "lr must be a number, not 'fast'"),
        ("rslora = 1", "rslora must be true or false, not 1"),
        ("target = [1]", "target must be a list of words, not [1]"),
        ("template = ['a']", "template must be text, not ['a']"),
        ("schedule = 'cosin'", "schedule is wrong: 'cosin' is not one of"),
        ("eval-split = 1.5", "eval-split is wrong: 1.5 is not in the range"),
        ("pack = true\npad = true", "pad and another key exclude each other"),
        ("rank = ", "is not valid TOML"),
        ("rank = 4\nrank = 5", "is not valid TOML"),
    ],
)
def test_a_bad_file(train, text, said):
    result, out = train(text, "run")
    assert result.code == 2
    assert said in result.err
    assert str(out.with_suffix(".toml")) in result.err
    assert result.err.count("\n") == 1
    assert not out.exists()


def test_no_file(bitgraph, tmp_path):
    result = bitgraph("train", "--config", tmp_path / "none.toml")
    assert (result.code, "could not be read" in result.err) == (2, True)
