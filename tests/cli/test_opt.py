"""`bitgraph opt`: passes on text graphs."""

import pytest
from bitgraph.graph.text import parse_graph
from bitgraph.graph.verify import verify

GRAPH = """\
graph @small {
  input %x: f32[4,8]
  input %c: f32[4,6]
  weight %up.weight: t2[6,8]
  %q: q8[4,8] = quantize(%x)
  %again: q8[4,8] = quantize(%x)
  %up: f32[4,6] = ternary_matmul(%q, %up.weight) @layers.0
  %unused: f32[4,6] = ternary_matmul(%again, %up.weight)
  %loss: f32[] = dot(%up, %c)
  return %loss
}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text(GRAPH)
    return path


def test_without_passes_the_graph_is_printed_as_it_is(bitgraph, file):
    result = bitgraph("opt", file)
    assert (result.code, result.out, result.err) == (0, GRAPH, "")


def test_dead_code_and_duplicates_go(bitgraph, file):
    result = bitgraph("opt", file, "-p", "cse,dce")
    expected = [line for line in GRAPH.splitlines() if "again" not in line]
    assert result.out.splitlines() == expected


def test_a_training_step_is_derived(bitgraph, file):
    result = bitgraph("opt", file, "-p", "lora{rank=2, alpha=4.0},grad,adamw,cse,dce")
    graph = parse_graph(result.out)
    verify(graph)
    assert str(graph) == result.out
    donated = {alias.donated for alias in graph.aliases}
    params = {f"up.lora_{half}.weight" for half in "AB"}
    moments = {f"{name}.{moment}" for name in params for moment in "mv"}
    assert donated == params | moments | {"sound"}


def test_the_result_goes_to_a_file(bitgraph, file, tmp_path):
    out, printed = tmp_path / "out.txt", bitgraph("opt", file, "-p", "dce").out
    result = bitgraph("opt", file, "-p", "dce", "-o", out)
    assert (result.code, result.out) == (0, "")
    assert out.read_text() == printed


def test_every_stage_is_dumped(bitgraph, file, tmp_path):
    dumps = tmp_path / "new" / "dumps"
    result = bitgraph("opt", file, "-p", "cse,dce", "--dump-passes", dumps)
    assert result.code == 0
    texts = {path.name: path.read_text() for path in dumps.iterdir()}
    stages = ["00-input.txt", "01-cse.txt", "02-dce.txt"]
    assert sorted(texts) == [*stages, "index.html", "timing.txt"]
    assert texts["00-input.txt"] == GRAPH
    assert texts["02-dce.txt"] == result.out


@pytest.mark.parametrize(
    ("passes", "said"),
    [
        ("cse,fly", "no pass named 'fly'"),
        ("lora{rank=0}", "rank of at least 1"),
        ("lora{width=3}", "no option 'width'"),
        ("lora{rank=two}", "'two' is not a value"),
        ("grad", "no params"),
        ("lora,grad{loss=total}", "no output named 'total'"),
        ('lora,grad{loss="nothing"}', "no output named 'nothing'"),
        ("lora,adamw", "run the pass grad first"),
        ("cse;dce", "is not a list of passes"),
    ],
)
def test_a_wrong_pipeline_is_named(bitgraph, file, passes, said):
    result = bitgraph("opt", file, "-p", passes)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("bitgraph: ")
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("%loss: f32[]", "%loss: f32[4]", "%loss"),
        ("quantize(%x)", "quantise(%x)", "quantise"),
        ("(%up, %c)", "(%down, %c)", "%down is used before it is defined"),
        ("graph @small {", "graph small", "line 1"),
        ("return %loss\n}\n", "", "closing brace"),
    ],
)
def test_a_wrong_graph_is_refused_where_it_is_wrong(bitgraph, file, old, new, said):
    file.write_text(GRAPH.replace(old, new))
    result = bitgraph("opt", file, "-p", "dce")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("bitgraph: ")
    assert said in result.err


def test_a_file_that_is_no_text_is_refused(bitgraph, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path / "missing", tmp_path):
        result = bitgraph("opt", path)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert str(path) in result.err


def test_nothing_is_written_when_a_pass_fails(bitgraph, file, tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("precious")
    assert bitgraph("opt", file, "-p", "grad", "-o", out).code == 2
    assert out.read_text() == "precious"
