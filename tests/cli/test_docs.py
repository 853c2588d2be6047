"""What the documentation shows is what the code gives."""

import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
from bitgraph.passes.fuse.patterns import PATTERNS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """The words of every `bitgraph` command line on a page."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["bitgraph"]:
                yield words[1:]


@pytest.mark.parametrize("name", ["architecture", "fusion"])
def test_the_graphs_of_a_page(bitgraph, tmp_path, name):
    page = ROOT / "docs" / f"{name}.md"
    before, after = (text for text in blocks(page, "text") if text.startswith("graph"))
    ((name, file, *options),) = commands(page)
    path = tmp_path / file
    path.write_text(before)
    result = bitgraph(name, path, *options)
    assert (result.code, result.out) == (0, after)


SMALLER = {
    "corpus": ("--records", "300"),
    "pretrain": (
        *("--preset", "tiny", "--layers", "1", "--vocab-size", "400"),
        *("--tokens-per-step", "512", "--max-steps", "2"),
    ),
    "eval": ("--max-tokens", "2"),
}
"""Options with which a command takes seconds."""


def test_the_commands_of_the_readme(bitgraph, model, data, tmp_path, monkeypatch):
    """In their order, as a newcomer would run them; without what takes a GPU or a gigabyte."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITGRAPH_CACHE", str(tmp_path / "cache"))
    shutil.copy(model, "model.gguf")
    for name in ("train.json", "eval.json"):
        shutil.copy(data, name)
    Path("prompts.txt").write_text("the time\nof all\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("the time\n"))
    names = set()
    for words in commands(ROOT / "README.md"):
        if "2b-4t" not in words and words[0] not in ("devices", "verify"):
            result = bitgraph(*words, *SMALLER.get(words[0], ()))
            assert result.code == 0, (words, result.err)
            names.add(words[0])
    assert names >= {
        "train",
        "generate",
        "eval",
        "export",
        "import",
        "inspect",
        "init",
        "compile",
        "opt",
    }


def test_the_table_of_patterns_is_the_one_that_is_used():
    first, *_ = re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / "fusion.md").read_text(), re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE)
    assert rows == [pattern.name for pattern in PATTERNS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page):
    """`graph/ir.py` and the like; what stands for a path of the reader's is in capitals."""
    for path in re.findall(r"`((?:\w+/)+[\w.]*)`", page.read_text()):
        if path.split("/")[0] not in ("runs", "adapter", "dumps"):
            assert (ROOT / path).exists(), path
