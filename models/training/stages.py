"""The graph of a training step at the points of compilation that have a name."""

from dataclasses import replace
from typing import Final

from ...graph.ir import Graph
from ...graph.types import DType
from ...passes.checkpoint.checkpoint import UNLIMITED, Checkpoint
from ...passes.fuse.fuse import Fuse
from ...passes.manager import PassManager
from ..bitnet.config import BitNetConfig
from ..bitnet.forward import loss_graph
from .options import TrainingOptions

STAGES: Final = ("forward", "joint", "checkpointed", "fused", "schedule")


def stage_graph(
    config: BitNetConfig,
    options: TrainingOptions,
    tokens: int,
    stage: str,
    embedding: DType = DType.F16,
    checkpoint: Checkpoint = UNLIMITED,
) -> Graph:
    """A training step at one of `STAGES`, for a batch of so many tokens.

    `forward` is the loss alone, `joint` the whole step before memory and speed are looked at,
    `checkpointed` and `fused` are after the passes of these names, and `schedule` is the graph that
    a device is given.

    Raises:
        BitgraphError: the step does not fit the budget of `checkpoint`.
    """
    graph = loss_graph(config, tokens, embedding)
    graph = replace(graph, outputs=(graph.output("loss"),))
    passes = options.training_passes(checkpoint)
    names = [step.name for step in passes]
    counts = {
        "forward": 0,
        "joint": len(options.joint_passes()),
        "checkpointed": names.index(Checkpoint.name) + 1,
        "fused": names.index(Fuse.name) + 1,
        "schedule": len(passes),
    }
    return PassManager(passes[: counts[stage]]).run(graph)
