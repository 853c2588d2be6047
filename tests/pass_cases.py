"""Tests of passes as text files: a pipeline, a graph, and line by line what becomes of it.

The expectations are in the manner of LLVM's FileCheck. By hand::

    bitgraph opt FILE -p PIPELINE | filecheck FILE --match-full-lines
"""

import re
from pathlib import Path

from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from filecheck.matcher import Matcher
from filecheck.options import Options
from graphs import read

_RUN = re.compile(r"^// RUN: bitgraph opt %s -p '(.*)'$", re.M)
_CHECK = re.compile(r"^// CHECK(-NEXT)?: +(.*)$", re.M)


def pipeline_of(case: Path) -> str:
    """The pipeline of a case."""
    (pipeline,) = _RUN.findall(case.read_text())
    return str(pipeline)


def expected(case: Path) -> list[str]:
    """The lines that a case expects, without their indentation."""
    return [line for _, line in _CHECK.findall(case.read_text())]


def accepts(case: Path, output: str, folder: Path) -> bool:
    """Whether every line of an output is as a case says, in its order and none left out.

    FileCheck alone would take what stands before the first expectation and behind the last, and
    holds only a CHECK-NEXT to the very next line.
    """
    following = [bool(following) for following, _ in _CHECK.findall(case.read_text())]
    assert following == [False] + [True] * (len(following) - 1)
    assert not any("[[" in line or "{{" in line for line in expected(case))
    path = folder / "output.txt"
    path.write_text(output)
    matcher = Matcher.from_opts(Options(str(case), str(path), match_full_lines=True))
    return matcher.run() == 0 and len(output.splitlines()) == len(following)


def check_case(case: Path, folder: Path) -> None:
    """Hold the passes of a case to what it says; the graph in it must be as it prints."""
    lines = case.read_text().splitlines()
    text = "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))
    graph = read(text)
    assert str(graph) == text
    result = PassManager(parse_pipeline(pipeline_of(case))).run(graph)
    assert accepts(case, str(result), folder)
