"""`bitgraph diff-backends`: what it says of a right step, of a wrong node, and of bad input."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.cli import diff_backends
from bitgraph.graph.ir import Graph
from bitgraph.passes import pipeline
from bitgraph.passes.cleanup import EliminateDeadCode
from runs import Result

Run = Callable[..., Result]


@pytest.fixture
def diff(bitgraph: Run, model: Path, data: Path) -> Run:
    def run(*arguments: object) -> Result:
        return bitgraph("diff-backends", "--model", model, "--data", data, *arguments)

    return run


class WrongRope(NumpyBackend):
    """Every rope is 1% too large."""

    def compile(self, graph: Graph) -> Any:
        program = super().compile(graph)
        if [node.op for node in graph.nodes] == ["rope"]:
            true = program.run
            program.run = lambda inputs: {  # type: ignore[method-assign]
                name: value * np.float32(1.01) for name, value in true(inputs).items()
            }
        return program


@pytest.mark.parametrize(
    "options",
    [
        ("--backend", "numpy"),
        ("--backend", "numpy", "--pass", "cse", "--exact"),
        ("--backend", "numpy", "--passes", "lora{rank=2},grad,cse,dce", "--pass", "dce"),
    ],
)
def test_a_right_step(diff: Run, options: tuple[str, ...]) -> None:
    result = diff(*options)
    assert (result.code, result.err) == (0, "")
    first, *rest = result.out.splitlines()
    nodes, compared = map(int, re.findall(r"(\d+) nodes, (\d+) values compared", first)[0])
    assert compared >= nodes > 20
    assert rest[0] == "no node is wrong on equal operands"


def test_a_wrong_kernel(diff: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diff_backends, "make_backend", lambda name, device: WrongRope(1))
    folder = tmp_path / "dump"
    passes = "lora{rank=2},grad,adamw,cse,dce"  # fused, a rope would not be a node of its own
    result = diff("--backend", "numpy", "--passes", passes, "--dump", folder)
    assert result.code == 2
    assert re.fullmatch(
        r"bitgraph: wrong nodes: \d+, the first is rope, which makes %\S+; mend its kernel, or the "
        r"pass that made it\n",
        result.err,
    )
    assert "is off by 1.0e-02 of its largest magnitude, 1e-06 is allowed" in result.out
    given, wanted = re.findall(r"largest error at \[[\d,]+\]: (\S+) instead of (\S+)", result.out)[
        0
    ]
    assert float(given) == pytest.approx(1.01 * float(wanted), rel=1e-5)
    assert result.out.count("  operand %") == 2
    (call,) = re.findall(r"  python -c \"(.*)\"", result.out)
    again = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    error = float(re.findall(r"is off by (\S+) of", again.stdout)[0])
    assert error < 1e-6  # on the backend as it is, which is right
    assert "rope" in (folder / "node.txt").read_text()


def test_a_wrong_pass(diff: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(EliminateDeadCode):
        name = "wrong"

        def __call__(self, graph: Graph) -> Graph:
            nodes = [
                replace(node, attrs=(("factor", -1.0),)) if node.op == "scale" else node
                for node in graph.nodes
            ]
            return replace(graph, nodes=tuple(nodes))

    monkeypatch.setitem(pipeline.PASSES, "wrong", Wrong)
    result = diff("--backend", "numpy", "--passes", "lora,wrong", "--pass", "wrong")
    assert result.code == 2
    assert "the first is scale" in result.err
    assert "is off by" in result.out


def test_a_program_that_is_not_its_nodes(diff: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    true = diff_backends.run_graph

    def doubled(*arguments: Any) -> Any:
        results = true(*arguments)
        return {**results, "loss": 2 * np.asarray(results["loss"])}

    monkeypatch.setattr(diff_backends, "run_graph", doubled)
    result = diff("--backend", "numpy")
    assert result.code == 2
    assert result.err == (
        "bitgraph: every node is right, but %loss of the whole program is off by 1.0e+00; look for "
        "a missing barrier or overlapping memory in its schedule\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--pass", "fold"), "--pass fold is not one of the step's passes lora, grad, "),
        (("--passes", "fold"), "there is no pass named 'fold'"),
        (("--against", "numpy"), "both backends are numpy; choose another --backend or --against"),
        (("--pass", "cse", "--against", "numpy"), "--pass compares on one backend"),
        (("--passes", "surrogate,promote"), "is given as f16[320,64], not f64[320,64]"),
        (("--batch-size", "0"), "batch-size (0) must be at least 1"),
        (("--max-seq-len", "100000"), "max-seq-len is 100000, but the model's context is 512"),
        (("--data", "nowhere.json"), "nowhere.json"),
        (("--dump", "/dev/null/x"), "the folder /dev/null/x cannot be used"),
    ],
)
def test_bad_input(diff: Run, options: tuple[str, ...], sentence: str) -> None:
    result = diff("--backend", "numpy", *options)
    assert result.code == 2
    assert result.err.startswith("bitgraph: ")
    assert sentence in result.err
    assert result.err.count("\n") == 1
