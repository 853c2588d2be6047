"""`bitgraph generate --chat` and `--prompts`, and adapters by name."""

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from bitgraph.cli.session import _split
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.adapters.peft import save_adapter
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import projection_shapes


@pytest.fixture
def chat(bitgraph, model, monkeypatch):
    """Converse in the lines given; what was answered and said."""

    def run(lines, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        options = ("--backend", "numpy", "--model", model, "--max-tokens", 6)
        result = bitgraph("generate", "--chat", *options, *arguments)
        assert result.code == 0, result.err
        return result

    return run


@pytest.fixture
def generate(bitgraph, model):
    def run(*arguments):
        result = bitgraph("generate", "--backend", "numpy", "--model", model, *arguments)
        assert result.code == 0, result.err
        return result.out

    return run


@pytest.fixture(scope="session")
def folders(model, tmp_path_factory):
    """Two trained adapters of different modules and ranks."""
    place = tmp_path_factory.mktemp("adapters")
    shapes = projection_shapes(load_checkpoint(model).config)
    for name, target, rank in (("calm", "q_proj", 2), ("wild", "up_proj", 3)):
        chosen = {module: shape for module, shape in shapes.items() if module.endswith(target)}
        rng = np.random.default_rng(rank)
        tensors = {
            key: (tensor + rng.standard_normal(tensor.shape)).astype(np.float32)
            for key, tensor in initial_tensors(chosen, rank, seed=0).items()
        }
        save_adapter(place / name, LoraAdapter(rank, 4.0, (target,), tensors))
    return place


def test_answers_depend_on_what_was_said(chat):
    first = chat(["the time"]).out
    assert first.endswith("\n")
    both = chat(["the time", "the time"]).out
    assert both.startswith(first)
    assert both != 2 * first
    assert chat(["the time", "/reset", "the time"]).out == 2 * first
    assert chat(["the time", "/exit", "the time"]).out == first
    assert chat(["", "   ", "the time"]).out == first
    assert chat(["the time"], "--system", "of all").out != first


def test_a_conversation_has_the_template_that_is_asked_for(chat, generate, bitgraph, model):
    ask = ("--max-tokens", 6, "the time")
    for template in ("bitnet-chat", "alpaca"):
        answer = generate("--template", template, *ask)
        assert chat(["the time"], "--template", template).out == answer
    assert chat(["the time"]).out == generate("--template", "bitnet-chat", *ask)
    result = bitgraph("generate", "--model", model, "--chat", "--template", "raw")
    assert result.code == 2
    assert "other than raw" in result.err


def test_what_cannot_be_done_is_said_and_the_conversation_goes_on(chat):
    first = chat(["the time"]).out
    result = chat(["word " * 600, "/fly", "/lora nobody 1", "the time"])
    assert result.out == first
    assert "context holds 512" in result.err
    assert "/reset" in result.err
    assert "no adapter 'nobody'" in result.err
    assert "context holds 40" in chat(["the time " * 20], "--context", 40).err


def test_a_chat_switches_adapters(chat, folders):
    line = "the time"
    plain = chat([line]).out
    loras = ("--lora", folders / "calm", "--lora", f"odd={folders / 'wild'}@0.5")
    calm, odd = (chat([line], *loras, "--use", name).out for name in ("calm", "odd"))
    assert len({plain, calm, odd}) == 3
    script = [line, "/reset", "/lora calm 0", "/lora odd 0.5", line, "/reset", "/lora odd 0", line]
    assert chat(script, *loras, "--use", "calm").out == calm + odd + plain
    assert "is not a number" in chat(["/lora odd much"], *loras).err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("some/folder", ("folder", "some/folder", 1.0)),
        ("some/folder@0.25", ("folder", "some/folder", 0.25)),
        ("a=some/folder", ("a", "some/folder", 1.0)),
        ("a=some/folder@-2", ("a", "some/folder", -2.0)),
        ("exists@3", ("exists@3", "exists@3", 1.0)),
        ("a=exists@3", ("a", "exists@3", 1.0)),
        ("a=exists@3@2", ("a", "exists@3", 2.0)),
    ],
)
def test_how_an_adapter_is_named(tmp_path, monkeypatch, text, wanted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exists@3").mkdir()
    name, path, scale = _split(text)
    assert (name, str(path), scale) == wanted


def test_scales_of_adapters(generate, folders):
    ask = ("the time", "--max-tokens", 8)
    plain = generate(*ask)
    both = generate(*ask, "--lora", folders / "calm", "--lora", folders / "wild")
    assert plain != both
    assert generate(*ask, "--lora", f"{folders / 'wild'}@0") == plain
    assert generate(*ask, "--lora", folders / "calm", "--use", "") == plain


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lora", "{calm}", "--lora", "{calm}"), "same name"),
        (("--lora", "{calm}", "--use", "other"), "no adapter 'other'"),
        (("--use", "other"), "no adapter 'other'"),
        (("--lora", "a={calm}@much"), "not a number"),
        (("--lora", "a={calm}@nan"), "not a number"),
        (("--lora", "a=nowhere"), "nowhere"),
    ],
)
def test_adapters_that_cannot_be(bitgraph, model, folders, arguments, said):
    given = [text.format(calm=folders / "calm") for text in arguments]
    result = bitgraph("generate", "--backend", "numpy", "--model", model, "the", *given)
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


# Prompts from a file


LINES = ["the time of", "é 漢 🙂", "What is hot?"]


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_prompts_of_a_file_are_answered_as_alone(generate, tmp_path, suffix):
    path = tmp_path / f"prompts.{suffix}"
    lines = [json.dumps({"prompt": p, "id": 7}) for p in LINES] if suffix == "jsonl" else LINES
    path.write_text("\n".join([lines[0], "", *lines[1:], ""]))
    sampled = ("--temperature", 0.9, "--seed", 5, "--max-tokens", 7)
    printed = generate("--prompts", path, *sampled)
    records = [json.loads(line) for line in printed.splitlines()]
    assert [record["prompt"] for record in records] == LINES
    for record in records:
        assert record["text"] + "\n" == generate(record["prompt"], *sampled)
        assert record["finish"] == ("length" if record["tokens"] == 7 else "stop")
    assert generate("--prompts", path, *sampled, "--out", tmp_path / "out") == ""
    assert (tmp_path / "out").read_text() == printed
    for more in (("--batch-size", 1), ("--batch-size", 2)):
        assert generate("--prompts", path, *sampled, "--stats", *more) == printed
    penalized = ("--repetition-penalty", 1.3, *sampled)
    (first, *_) = generate("--prompts", path, *penalized).splitlines()
    assert json.loads(first)["text"] + "\n" == generate(LINES[0], *penalized)


def test_a_stop_text_ends_an_answer(generate, tmp_path):
    whole = generate("the time of", "--max-tokens", 20).removesuffix("\n")
    stop = whole[5:7]
    wanted = whole[: whole.index(stop)]
    assert generate("the time of", "--max-tokens", 20, "--stop", stop) == wanted + "\n"
    for count in (1, 3):
        (tmp_path / "p").write_text(count * "the time of\n")
        stops = ("--stop", "#", "--stop", stop)
        told = generate("--prompts", tmp_path / "p", "--max-tokens", 20, *stops)
        for line in told.splitlines():
            assert json.loads(line)["text"] == wanted
            assert json.loads(line)["finish"] == "stop"
        assert told.count("\n") == count


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p", b"", "no prompts"),
        ("p", b"\n \n", "no prompts"),
        ("p", b"\xff\xfe", "UTF-8"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": 3}\n', "line 2"),
        ("p.jsonl", b'{"prompt": "a"}\n\n[]\n', "line 3"),
        ("p.jsonl", b"{\n", "line 1"),
        ("p", b"fine\n" + b"word " * 600, "line 2"),
        ("p.jsonl", b'{"prompt": "\\ud800"}', "surrogate"),
        (".", None, "could not be read"),
        ("absent", None, "could not be read"),
    ],
)
def test_prompts_that_cannot_be(bitgraph, model, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    result = bitgraph(
        "generate", "--backend", "numpy", "--model", model, "--prompts", tmp_path / name,
        "--out", out,
    )  # fmt: skip
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments", [(), ("hi", "--chat"), ("hi", "--prompts", "p"), ("--chat", "--prompts", "p")]
)
def test_one_thing_at_a_time(bitgraph, model, arguments):
    result = bitgraph("generate", "--model", model, *arguments)
    assert result.code == 2
    assert "one of PROMPT, --prompts and --chat" in result.err


# Ctrl-C, in a process of its own


def test_ctrl_c_ends_the_answer_and_not_the_program(chat, model):
    whole = chat(["the time"], "--max-tokens", 400).out.encode()
    code = "from bitgraph.cli.main import main; main()"
    arguments = ["generate", "--chat", "--backend", "numpy", "--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--max-tokens", "400"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdin.write(b"the time\n")
    process.stdin.flush()
    begun = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    rest, err = process.communicate(b"/fly\n", timeout=60)
    assert process.returncode == 0, err
    assert (begun + rest).endswith(b"\n")
    shown = (begun + rest)[:-1]
    assert 0 < len(shown) < len(whole) - 1
    assert whole.startswith(shown)
    assert b"/reset" in err  # the help that followed /fly: it went on reading
