"""Passes from text to text: the files of cases/, and that what they do not expect is noticed."""

from pathlib import Path

import pytest
from bitgraph.passes.pipeline import PASSES, parse_pipeline
from pass_cases import accepts, check_case, expected, pipeline_of

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_case(case: Path, tmp_path: Path) -> None:
    check_case(case, tmp_path)


def test_every_pass_has_a_case_or_a_file_of_its_own() -> None:
    tested = {step.name for case in CASES for step in parse_pipeline(pipeline_of(case))}
    own = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(PASSES) <= tested | own


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
    head, *body, end = expected(case)
    right = "".join(f"{line}\n" for line in (head, *(f"  {line}" for line in body), end))
    assert accepts(case, right, tmp_path)
    assert old in right
    assert not accepts(case, right.replace(old, new), tmp_path)
