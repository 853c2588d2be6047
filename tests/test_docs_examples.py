"""The examples in docs/ do what their pages say."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitgraph.graph.ops import OPS, elementwise
from bitgraph.graph.text import parse_graph
from bitgraph.graph.verify import verify
from bitgraph.passes import cleanup, pipeline
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from gradcheck import check_op
from op_cases import assert_close, draw, run
from pass_cases import check_case, pipeline_of

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def names_of(module: Any, *more: Any) -> dict[str, Any]:
    """What a module's own code can use."""
    return {k: v for part in (module, *more) for k, v in vars(part).items() if k[:2] != "__"}


def test_the_op_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("adding-an-op.md", "python")
    scope = names_of(elementwise)
    exec("from __future__ import annotations\n" + code, scope)
    op = scope["TANH"]
    monkeypatch.setitem(OPS, "tanh", op)
    for case in op.cases.all():
        check_op(op, case)
        (y,) = run(op, draw(case), case)
        (x,) = draw(case)
        assert_close(op.eval(np.asarray(x)[:1]), y[:1], 1e-7)


def test_the_pass_of_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bitgraph.graph import analysis, ir

    (code,) = blocks("adding-a-pass.md", "python")
    case = tmp_path / "case.txt"
    case.write_text(*blocks("adding-a-pass.md", "text"))
    # dataclasses look their module up by name
    scope = {**names_of(analysis, ir, cleanup), "__name__": cleanup.__name__}
    exec(code, scope)
    monkeypatch.setitem(pipeline.PASSES, "merge_scales", scope["MergeScales"])
    (command,) = blocks("adding-a-pass.md", "sh")
    assert command.split("'")[1] == pipeline_of(case)
    check_case(case, tmp_path)


def test_the_graphs_of_the_architecture() -> None:
    """The second graph is what the command before it makes of the first."""
    before, after = [text for text in blocks("architecture.md", "text") if "graph @" in text]
    commands = blocks("architecture.md", "sh")
    (passes,) = re.findall(r"bitgraph opt small.txt -p '(.*)'", "".join(commands))
    verify(parse_graph(before))
    assert str(PassManager(parse_pipeline(passes)).run(parse_graph(before))) == after


def test_the_files_that_pages_name_exist() -> None:
    root = DOCS.parent
    for page in ("adding-an-op.md", "adding-a-pass.md", "architecture.md"):
        named = re.findall(r"`([a-z_]+/[\w/.]+\.(?:py|md|comp))`", (DOCS / page).read_text())
        assert len(named) > 3
        for path in named:
            assert (root / path).exists(), f"{page} names {path}"
