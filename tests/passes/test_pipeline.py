"""Pipelines as text, and the pass manager."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from bitgraph.cli.dumps import Stages
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.ir import Graph
from bitgraph.graph.text import parse_graph
from bitgraph.graph.types import GraphError
from bitgraph.graph.verify import verify
from bitgraph.models.bitnet.forward import loss_graph
from bitgraph.passes.checkpoint.checkpoint import Checkpoint
from bitgraph.passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from bitgraph.passes.grad import Grad
from bitgraph.passes.lora import Lora
from bitgraph.passes.manager import Pass, PassManager
from bitgraph.passes.optimizer import AdamW
from bitgraph.passes.pipeline import PASSES, parse_pipeline
from bitgraph.passes.surrogate import Promote, Surrogate
from graphs import TRAINING, staged
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import CONFIG

LOSS = loss_graph(CONFIG, 4)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", ()),
        ("grad", (Grad(),)),
        ("lora{rank=8},grad", (Lora(rank=8), Grad())),
        (" lora{rank=8, alpha=4} , grad , dce ", (Lora(8, 4.0), Grad(), EliminateDeadCode())),
        ('lora{targets="q_proj,v_proj"}', (Lora(targets=("q_proj", "v_proj")),)),
        ('lora{targets=""}', (Lora(),)),
        ("lora{}", (Lora(),)),
        ('grad{loss="total"}', (Grad("total"),)),
        ("grad{loss=total}", (Grad("total"),)),
        ("grad{loss=64MiB},dce", (Grad("64MiB"), EliminateDeadCode())),
        ("grad{loss=12.5%}", (Grad("12.5%"),)),
        ("lora{targets=q_proj, rank=2}", (Lora(2, targets=("q_proj",)),)),
        ("adamw{beta1=0, eps=1e-6}", (AdamW(beta1=0.0, eps=1e-6),)),
        ("checkpoint{budget=64MiB}", (Checkpoint("64MiB"),)),
        ('checkpoint{budget="1.5 GiB", reserve=3}', (Checkpoint("1.5 GiB", reserve=3),)),
        ("cse,surrogate,promote", (MergeCommonSubexpressions(), Surrogate(), Promote())),
    ],
)
def test_a_pipeline_is_read(text: str, passes: tuple[Pass, ...]) -> None:
    assert parse_pipeline(text) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold", "there is no pass named 'fold'; there are lora, "),
        ("lora,,grad", "',grad' is not a list of passes such as lora"),
        ("lora grad", "'lora grad' is not a list of passes"),
        ("lora{rank=8", "'lora{rank=8' is not a list of passes"),
        ("lora}", "'lora}' is not a list of passes"),
        ("lora{rank}", "'rank' is not a list of name=value"),
        ("lora{rank=8, rank=9}", "'rank' is given twice"),
        ("lora{rank=}", "'rank=' is not a list of name=value"),
        ("lora{rank=x}", "'x' is not a value of an attribute"),
        ("lora{depth=8}", "the pass lora has no option 'depth'; its options: rank, alpha, targets"),
        ("dce{all=true}", "the pass dce has no option 'all'; its options: none"),
        ("lora{rank=8.5}", "the pass lora: rank is 8.5, not a int"),
        ("lora{rank=true}", "the pass lora: rank is True, not a int"),
        ('lora{rank="8"}', "the pass lora: rank is '8', not a int"),
        ("lora{alpha=true}", "the pass lora: alpha is True, not a float"),
        (f"lora{{alpha={10**400}}}", "the pass lora: alpha is 10*, not a float"),
        ("lora{alpha=64MiB}", "'64MiB' is not a value of an attribute"),
        ("grad{loss=6 GiB}", "'loss=6 GiB' is not a list of name=value"),
    ],
)
def test_a_wrong_pipeline_is_refused(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_pipeline(text)


PIECES = [*PASSES, "{", "}", ",", "=", '"', " ", "rank", "8", "1e5", "alpha", "loss", "(1, 2)", "é"]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=8).map("".join))
def test_any_text_is_a_pipeline_or_refused(text: str) -> None:
    try:
        steps = parse_pipeline(text)
    except GraphError:
        return
    assert all(type(step) is PASSES[step.name] for step in steps)


def test_passes_run_in_order_and_are_timed() -> None:
    seen: list[tuple[int, str]] = []
    manager = PassManager(
        parse_pipeline("lora,grad,dce"), lambda n, name, g: seen.append((n, name))
    )
    result = manager.run(LOSS)
    assert seen == [(0, "input"), (1, "lora"), (2, "grad"), (3, "dce")]
    assert list(manager.seconds) == ["01-lora", "02-grad", "03-dce"]
    assert all(0 < seconds < 60 for seconds in manager.seconds.values())
    assert result == EliminateDeadCode()(Grad()(Lora()(LOSS)))


def test_no_passes_give_the_graph_itself() -> None:
    assert PassManager([]).run(LOSS) is LOSS


@dataclass(frozen=True)
class Broken:
    """Forgets the last node."""

    name: ClassVar[str] = "broken"

    def __call__(self, graph: Graph) -> Graph:
        return replace(graph, nodes=graph.nodes[:-1])


def test_what_a_pass_gives_is_verified() -> None:
    stages: list[str] = []
    manager = PassManager([Lora(), Broken(), Grad()], lambda n, name, g: stages.append(name))
    with pytest.raises(GraphError, match="%loss is used before it is defined"):
        manager.run(LOSS)
    assert stages == ["input", "lora"]


def test_the_input_is_verified() -> None:
    with pytest.raises(GraphError, match="%loss is used before it is defined"):
        PassManager([]).run(replace(LOSS, nodes=LOSS.nodes[:-1]))


def test_errors_of_passes_are_errors_a_person_reads() -> None:
    with pytest.raises(BitgraphError, match="has no params to differentiate for"):
        PassManager([Grad()]).run(LOSS)


def test_every_stage_is_dumped_and_reads_back_equal(tmp_path: Path) -> None:
    folder = tmp_path / "dumps" / "run 1"
    dumped_stages = Stages(folder)
    assert not folder.exists()
    result = PassManager(parse_pipeline(TRAINING), dumped_stages.add).run(loss_graph(CONFIG, 6))
    names = [path.name for path in sorted(folder.iterdir())]
    assert names == [
        "00-input.txt", "01-lora.txt", "02-grad.txt", "03-adamw.txt", "04-cse.txt", "05-dce.txt",
    ]  # fmt: skip
    stages = list(staged(TRAINING).values())
    for path, graph in zip(sorted(folder.iterdir()), stages, strict=True):
        dumped = parse_graph(path.read_text())
        assert dumped == graph
        verify(dumped)
    assert dumped == result


def test_a_dump_is_a_valid_start_for_the_rest_of_the_pipeline(tmp_path: Path) -> None:
    stages = staged(TRAINING)
    rest = TRAINING.split(",grad,")[1]
    again = parse_graph(str(stages["2-grad"]))
    assert PassManager(parse_pipeline(rest)).run(again) == stages["5-dce"]
