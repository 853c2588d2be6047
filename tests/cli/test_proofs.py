"""`bitgraph verify --symbolic`: what it proves, what it refuses, and what it says."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from bitgraph.graph.ops import OPS
from bitgraph.graph.symbolic import prove
from bitgraph.graph.symbolic.prove import small_cases
from runs import Result

DIFFERENTIABLE = {op.name: op for op in OPS.values() if op.vjp is not None}


def test_every_gradient_is_proved(
    bitgraph: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = bitgraph("verify", "--symbolic")
    cases = [name for name, op in DIFFERENTIABLE.items() for _ in small_cases(op)]
    rows = [line.split("│") for line in result.out.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == cases
    assert {row[3].strip() for row in rows} == {"proved"}
    assert result.out.splitlines()[-1].startswith(f"all {len(cases)} gradients")
    assert (result.code, result.err) == (0, "")


def test_a_wrong_gradient_ends_with_one_sentence(
    bitgraph: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(OPS["sub"], vjp=lambda b, node, dc: (dc, dc))
    monkeypatch.setattr(prove, "OPS", {"add": OPS["add"], "sub": wrong})
    result = bitgraph("verify", "--symbolic")
    assert result.code == 2
    assert "refuted" in result.out
    assert result.err == (
        "bitgraph: 1 of 2 gradients are not proved, the first that of sub: the factor of dy0[0,0] "
        "in the gradient of x1[0,0] is off by 2.00000 at a point; mend its vjp in graph/ops\n"
    )


def test_without_sympy_the_option_says_what_to_install(
    bitgraph: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("bitgraph.graph.symbolic")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sympy", None)
    result = bitgraph("verify", "--symbolic")
    assert result.code == 2
    assert result.err == (
        "bitgraph: --symbolic needs sympy; install it with pip install 'bitgraph[symbolic]'\n"
    )


def test_a_proof_uses_no_device(bitgraph: Callable[..., Result]) -> None:
    result = bitgraph("verify", "--symbolic", "--device", "0")
    assert result.code == 2
    assert result.err == "bitgraph: --symbolic uses no device; leave out --device\n"
