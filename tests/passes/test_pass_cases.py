"""Passes from text to text: each file of cases/ holds a pipeline, a graph and what becomes of it.

The expectations are in the manner of LLVM's FileCheck, and hold every line. By hand::

    bitgraph opt FILE -p PIPELINE | filecheck FILE --match-full-lines
"""

import re
from pathlib import Path

import pytest
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import PASSES, parse_pipeline
from filecheck.matcher import Matcher
from filecheck.options import Options
from graphs import read

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))

_RUN = re.compile(r"// RUN: bitgraph opt %s -p '(.*)'")
_CHECK = re.compile(r"// CHECK(-NEXT)?: +(.*)")


def accepts(case: Path, output: Path) -> bool:
    """Whether every line of an output is as the case says, in its order and none left out.

    FileCheck alone would take what stands before the first expectation and behind the last.
    """
    checks = list(filter(None, map(_CHECK.fullmatch, case.read_text().splitlines())))
    assert [bool(check[1]) for check in checks] == [False] + [True] * (len(checks) - 1)
    assert not any("[[" in check[2] or "{{" in check[2] for check in checks)
    matcher = Matcher.from_opts(Options(str(case), str(output), match_full_lines=True))
    return matcher.run() == 0 and len(output.read_text().splitlines()) == len(checks)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_case(case: Path, tmp_path: Path) -> None:
    lines = case.read_text().splitlines()
    (pipeline,) = (match[1] for match in map(_RUN.fullmatch, lines) if match)
    text = "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))
    graph = read(text)
    assert str(graph) == text
    output = tmp_path / "output.txt"
    output.write_text(str(PassManager(parse_pipeline(pipeline)).run(graph)))
    assert accepts(case, output)


def test_every_pass_has_a_case() -> None:
    pipelines = [match[1] for case in CASES for match in _RUN.finditer(case.read_text())]
    tested = {step.name for pipeline in pipelines for step in parse_pipeline(pipeline)}
    assert tested == set(PASSES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("relu(%x)", "silu(%x)", id="op"),
        pytest.param("@one", "@two", id="scope"),
        pytest.param(" @one", "", id="end of a line"),
        pytest.param("  return", "  %z: f32[2,2] = relu(%g)\n  return", id="line more"),
        pytest.param("  input %x: f32[2,2]\n", "", id="line less"),
        pytest.param("graph @m", "\ngraph @m", id="line before"),
        pytest.param("}\n", "}\n// behind\n", id="line behind"),
    ],
)
def test_an_output_that_is_not_as_expected_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.stem == "cse")
    checks = filter(None, map(_CHECK.fullmatch, case.read_text().splitlines()))
    lines = [check[2] for check in checks]
    indented = [line if line.endswith(("{", "}")) else f"  {line}" for line in lines]
    right = "".join(f"{line}\n" for line in indented)
    assert right.count(old) >= 1
    output = tmp_path / "output.txt"
    output.write_text(right)
    assert accepts(case, output)
    output.write_text(right.replace(old, new))
    assert not accepts(case, output)
