"""`bitgraph data preview`, and the options of data that training and generation share with it."""

import json
import re

import pytest
from runs import RECORDS, read_metrics

CHAT = [
    {
        "messages": [
            {"role": "user", "content": "Hi <|eot_id|>?"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "Bye\u001b[31m."},
        ]
    },
    {"messages": [{"role": "user", "content": "Nobody answers."}]},
]
QUICK = ("--backend", "numpy", "--rank", 4, "--batch-size", 3, "--max-seq-len", 256)


@pytest.fixture
def chat(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in CHAT))
    return path


@pytest.fixture
def preview(bitgraph, model):
    def run(data, *options):
        result = bitgraph("data", "preview", "--model", model, "--data", data, *options)
        assert result.code == 0, result.err
        return result.out

    return run


def test_what_is_trained_stands_between_marks(preview, chat):
    out = preview(chat)
    assert (
        "<|begin_of_text|>User: Hi <|eot_id|>?<|eot_id|>Assistant: «Hello.<|eot_id|>»"
        "User: Bye<|eot_id|>Assistant: «Bye\ufffd[31m.<|eot_id|>»"
    ) in out
    assert "\x1b" not in out
    assert "1 skipped without a response" in " ".join(out.split())


def test_all_is_trained_if_asked(preview, chat):
    out = preview(chat, "--train-on-prompt", "-n", 1)
    assert "<|begin_of_text|>«User: Hi" in out


def test_statistics_agree_with_the_examples(preview, data):
    out = preview(data, "-n", 6)
    shown = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) tokens, (\d+) trained", out)]
    assert len(shown) == 6
    total, trained = (sum(column) for column in zip(*shown, strict=True))
    assert f"6 examples, {total:,} tokens, {trained:,} of them trained" in out
    lengths = sorted(length for length, _ in shown)
    bins = re.findall(r"^ *(\d+)-(\d+) +(\d+)", out, re.MULTILINE)
    for first, last, count in (tuple(map(int, found)) for found in bins):
        assert count == sum(first <= length <= last for length in lengths)
    assert sum(int(count) for _, _, count in bins) == 6
    row = re.search(r"100% *\n *([\d ,]+)", out)[1].split()
    assert (int(row[0]), int(row[-1])) == (lengths[0], lengths[-1])


def test_each_token_with_its_id(preview, chat):
    out = preview(chat, "--tokens", "-n", 1)
    assert re.search(r"'<\|eot_id\|>':319\*", out)
    assert re.search(r"'<\|begin_of_text\|>':317 ", out)
    assert "record 1" in out
    assert "record" not in preview(chat, "--from", 2).split("─\n")[0]


def test_a_second_look_comes_from_the_cache(preview, data):
    assert "from the cache" not in preview(data)
    assert "from the cache" in preview(data)
    assert "from the cache" not in preview(data, "--no-cache")


def test_a_template_of_ones_own(preview, data, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text(
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}[{{ m.content }}]{% endgeneration %}"
        "{% else %}<{{ m.content }}>{% endif %}{% endfor %}"
    )
    assert "<What is hot?>«[cold]»" in preview(data, "--template", own)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 1 / 0 }}", "record 1: the template .* fails in line 1"),
        ("{% if %}", "is wrong in line 1"),
        ("{{ messages }}", "does not mark what the assistant says"),
    ],
)
def test_a_bad_template(bitgraph, model, data, tmp_path, template, said):
    own = tmp_path / "own.jinja"
    own.write_text(template)
    for command in (("data", "preview"), ("train", "--out", tmp_path / "run")):
        result = bitgraph(*command, "--model", model, "--data", data, "--template", own)
        assert result.code == 2
        assert re.search(said, result.err)
        assert result.err.startswith("bitgraph: ")
        assert result.err.count("\n") == 1


def train(bitgraph, model, data, out, *options):
    result = bitgraph("train", "--model", model, "--data", data, "--out", out, *QUICK, *options)
    assert result.code == 0, result.err
    kept = ("start", "step", "eval")
    return result.err, [record for record in read_metrics(out) if record["event"] in kept]


def test_training_on_a_share_and_evaluating_on_the_rest(bitgraph, model, data, tmp_path):
    said, (start, *events) = train(
        bitgraph, model, data, tmp_path / "run", "--eval-split", 0.34, "--seed", 3
    )
    assert "4 examples to train on, 2 to evaluate on" in said
    assert start["eval_split"] == 0.34
    assert [event["event"] for event in events] == ["eval", "step", "step", "eval"]
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", tmp_path / "other", *QUICK,
        "--eval-split", 0.5, "--eval-data", data,
    )  # fmt: skip
    assert (result.code, "choose one" in result.err) == (2, True)


def test_layouts_count_supervised_real_and_padded(bitgraph, model, tmp_path):
    data = tmp_path / "data.json"
    records = [r | {"output": r["output"] + " so" * i * 7} for i, r in enumerate(RECORDS)]
    data.write_text(json.dumps(records))
    steps = {}
    for layout, options in (
        ("flat", ()),
        ("pad", ("--pad",)),
        ("pack", ("--pack", "--tokens-per-step", 640)),
    ):
        said, (start, *reports) = train(
            bitgraph, model, data, tmp_path / layout, "--max-seq-len", 320, *options
        )
        assert start["layout"] == layout
        assert re.search(r"supervised, .* real, .* padded tokens/s", said)
        steps[layout] = reports
    real = {name: sum(r["tokens"] for r in reports) for name, reports in steps.items()}
    supervised = {name: sum(r["supervised"] for r in reports) for name, reports in steps.items()}
    slots = {name: sum(r["slots"] for r in reports) for name, reports in steps.items()}
    assert len(set(real.values())) == len(set(supervised.values())) == 1
    assert slots["pad"] > slots["flat"] >= real["flat"]
    assert {r["slots"] for r in steps["pack"]} == {640}


def test_an_example_that_fits_no_packed_step(bitgraph, model, data, tmp_path):
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", tmp_path / "run", *QUICK,
        "--pack", "--tokens-per-step", 100,
    )  # fmt: skip
    assert result.code == 2
    assert "tokens-per-step is 100, but an example has" in result.err


def test_a_size_of_packed_steps_that_are_not_packed(bitgraph, model, data, tmp_path):
    result = bitgraph(
        "train", "--model", model, "--data", data, "--out", tmp_path / "run", *QUICK,
        "--tokens-per-step", 512,
    )  # fmt: skip
    assert (result.code, "add --pack" in result.err) == (2, True)


@pytest.mark.parametrize("template", ["alpaca", "bitnet-chat"])
def test_generation_with_a_template(bitgraph, model, template):
    result = bitgraph(
        "generate", "--model", model, "--backend", "numpy", "--template", template,
        "--max-tokens", 2, "What is hot?",
    )  # fmt: skip
    assert result.code == 0, result.err


def test_generation_with_no_such_template(bitgraph, model):
    result = bitgraph("generate", "--model", model, "--template", "vicuna", "Hi")
    assert result.code == 2
    assert "the template vicuna cannot be read" in result.err
