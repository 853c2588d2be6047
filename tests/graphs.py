"""Graphs to test with: every op alone, models at every pass, and texts of a few lines."""

from functools import cache

from bitgraph.graph.ir import Graph
from bitgraph.graph.ops import OPS
from bitgraph.graph.text import parse_graph
from bitgraph.graph.verify import verify
from bitgraph.models.bitnet.forward import decode_graph, logits_graph, loss_graph, prompt_graph
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from op_cases import one_op_graph
from tiny_model import CONFIG, RANK

TRAINING = f"lora{{rank={RANK}, alpha=6.0}},grad,adamw{{weight_decay=0.01}},cse,dce"

PRETRAINING = "masters,grad,adamw{weight_decay=0.01},cse,dce"


@cache
def staged(pipeline: str, tokens: int = 6) -> dict[str, Graph]:
    """The tiny model's loss after each pass of a pipeline, by number and name."""
    stages: dict[str, Graph] = {}

    def keep(number: int, name: str, graph: Graph) -> None:
        stages[f"{number}-{name}"] = graph

    PassManager(parse_pipeline(pipeline), keep).run(loss_graph(CONFIG, tokens))
    return stages


@cache
def training_graph(tokens: int) -> Graph:
    """A whole training step of the tiny model."""
    return list(staged(TRAINING, tokens).values())[-1]


@cache
def pretraining_graph(tokens: int) -> Graph:
    """A whole step that trains all weights of the tiny model."""
    return list(staged(PRETRAINING, tokens).values())[-1]


@cache
def all_graphs() -> dict[str, Graph]:
    """Every op's fixed cases, and the models at every pass."""
    graphs = {
        f"{op.name}-{'x'.join(map(str, sizes))}": one_op_graph(op, op.cases.make(*sizes))
        for op in OPS.values()
        for sizes in op.cases.fixed
    }
    graphs |= {f"train {name}": graph for name, graph in staged(TRAINING).items()}
    graphs |= {f"smooth {name}": g for name, g in staged("lora,surrogate,promote,grad").items()}
    graphs |= {"logits": logits_graph(CONFIG, 5), "prompt": prompt_graph(CONFIG, 3, 32)}
    graphs |= {"decode": decode_graph(CONFIG, 32)}
    graphs |= {"decode of several": decode_graph(CONFIG, 32, sequences=3)}
    graphs |= {"prompts": prompt_graph(CONFIG, 3, 32, sequences=2)}
    graphs |= {"penalized decode": decode_graph(CONFIG, 32, penalized=True)}
    graphs |= {f"{name} fused": Fuse()(graphs[name]) for name in ("decode", "train 5-dce")}
    return graphs


def read(text: str) -> Graph:
    """A verified graph from its text."""
    graph = parse_graph(text)
    verify(graph)
    return graph
