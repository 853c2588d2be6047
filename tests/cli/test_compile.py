"""`bitgraph compile`: a model's stages, without running it."""

import re

import pytest
from bitgraph.graph.text import parse_graph
from bitgraph.graph.verify import verify


@pytest.mark.parametrize(
    ("stage", "passes", "output"),
    [
        ("train", ["lora", "grad", "adamw", "cse", "dce"], "grad_norm"),
        ("loss", ["lora", "cse", "dce"], "nll"),
        ("prompt", ["lora", "cse", "dce"], "next"),
        ("decode", ["lora", "cse", "dce"], "next"),
    ],
)
def test_a_preset_is_compiled_without_a_file_or_a_gpu(bitgraph, tmp_path, stage, passes, output):
    folder = tmp_path / "dumps"
    options = ("--preset", "tiny", "--limits", "lavapipe", "--tokens", 128, "--rank", 4)
    result = bitgraph("compile", *options, "--stage", stage, "--dump-passes", folder)
    assert (result.code, result.err) == (0, "")
    texts = sorted(folder.glob("[0-9]*.txt"))
    names = [path.stem.split("-")[1] for path in texts]
    assert (names[0], names[-1]) == ("input", "schedule")
    assert [name for name in names if name in passes] == passes
    graph = parse_graph(texts[-2].read_text())
    verify(graph)
    graph.output(output)
    assert (folder / "index.html").exists()


def test_what_is_printed_is_what_the_texts_hold(bitgraph, tmp_path):
    options = ("--preset", "tiny", "--limits", "h100", "--tokens", 128)
    printed = bitgraph("compile", *options, "--dump-passes", tmp_path).out
    timing = (tmp_path / "timing.txt").read_text().splitlines()
    assert [line.rstrip() for line in printed.splitlines()[: len(timing)]] == timing
    (path,) = tmp_path.glob("*schedule.txt")
    schedule = path.read_text()
    dispatches = len(re.findall(r" groups=\d+x\d+x\d+ @", schedule))
    barriers = len(re.findall(r"^  barrier$", schedule, re.M))
    assert f"\n{dispatches:,} dispatches, {barriers:,} barriers\n" in printed
    arenas = sum(map(int, re.findall(r"^  arena %\w+: (\d+)$", schedule, re.M)))
    assert f"\narenas: {arenas / 2**20:,.2f} MiB, " in printed
    assert schedule.startswith(f"// arenas: {arenas / 2**20:,.2f} MiB, ")


def test_a_model_is_compiled_for_numpy(bitgraph, model):
    result = bitgraph("compile", "--model", model, "--backend", "numpy", "--max-seq-len", 64)
    assert result.code == 0
    assert re.search(r"^ \d\d-schedule ", result.out, re.M)
    assert "dispatches" not in result.out


def test_tokens_are_a_full_batch_unless_given(bitgraph, tmp_path):
    given = ("--batch-size", 3, "--max-seq-len", 50)
    for name, sizes, tokens in (("a", given, 256), ("b", (*given, "--tokens", 7), 7)):
        options = ("--preset", "tiny", "--limits", "default", *sizes)
        assert bitgraph("compile", *options, "--dump-passes", tmp_path / name).code == 0
        text = (tmp_path / name / "00-input.txt").read_text()
        assert f"input %tokens: i32[{tokens}]" in text


def test_without_adapters(bitgraph, tmp_path):
    options = ("--preset", "tiny", "--limits", "h100", "--stage", "decode", "--context", 32)
    assert bitgraph("compile", *options, "--no-lora", "--dump-passes", tmp_path).code == 0
    *_, last, _ = sorted(tmp_path.glob("[0-9]*.txt"))
    text = last.read_text()
    assert "lora" not in text
    assert "state %layers.0.self_attn.keys.cache: f32[32,2,32]" in text


def test_a_budget_makes_a_step_compute_again(bitgraph, tmp_path):
    options = ("--preset", "tiny", "--limits", "h100", "--tokens", 512)
    arenas, again = [], []
    for budget in ("", "8MiB"):
        given = ("--memory-budget", budget, "--dump-passes", tmp_path / f"dumps{budget}")
        result = bitgraph("compile", *options, *given)
        assert result.code == 0, result.err
        arenas.append(float(re.findall(r"^arenas: ([\d.]+) MiB", result.out, re.M)[0]))
        (text,) = (
            path.read_text() for path in (tmp_path / f"dumps{budget}").glob("*checkpoint.txt")
        )
        again.append(text.count("/recompute"))
    assert arenas[1] < 8 < arenas[0]
    assert 0 < again[0] < again[1]  # what is free is computed again in any case


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give either --model or --preset"),
        (("--preset", "tiny", "--model", "m.gguf"), "give either --model or --preset"),
        (("--preset", "tiny", "--limits", "h100", "--backend", "numpy"), "leave out --backend"),
        (("--preset", "tiny", "--limits", "h100", "--device", "0"), "leave out --backend and"),
        (("--preset", "tiny", "--backend", "numpy", "--device", "0"), "leave out --backend numpy"),
        (("--preset", "tiny", "--limits", "h100", "--no-lora"), "leave out --no-lora"),
        (("--preset", "tiny", "--limits", "h100", "--rank", "0"), "rank (0) must be at least 1"),
        (("--preset", "tiny", "--stage", "decode", "--context", "9999"), "context is 512"),
        (("--preset", "2b-4t", "--limits", "default", "--tokens", "9999"), "smaller batch"),
        (
            (
                "--model",
                "missing.gguf",
            ),
            "missing.gguf",
        ),
    ],
)
def test_what_cannot_be_compiled_is_said_in_a_sentence(
    bitgraph, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    result = bitgraph("compile", *options)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("bitgraph: ")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--stage", "run"), ("--limits", "big"), ("--preset", "9b")])
def test_a_choice_that_there_is_not_is_refused(bitgraph, option):
    result = bitgraph("compile", "--preset", "tiny", *option)
    assert result.code == 2
    assert "is not one of" in result.err
