"""The graph of a training step at the points of compilation that have a name."""

from dataclasses import replace
from typing import Final

from ...graph.errors import BitgraphError
from ...graph.ir import Graph
from ...graph.types import DType
from ...passes.manager import PassManager
from ..bitnet.config import BitNetConfig
from ..bitnet.forward import loss_graph
from .options import TrainingOptions

STAGES: Final = ("forward", "joint", "checkpointed", "fused", "schedule")

_MADE_BY: Final = {"checkpointed": "checkpoint", "fused": "fuse"}
"""Stages that stand behind a pass of their own."""


def stage_graph(
    config: BitNetConfig,
    options: TrainingOptions,
    tokens: int,
    stage: str,
    embedding: DType = DType.F16,
) -> Graph:
    """A training step at a stage, for a batch of so many tokens.

    `forward` is the loss alone, `joint` the whole step before memory and speed are looked at, and
    `schedule` the graph that a device is given.

    Raises:
        BitgraphError: no pass makes the stage.
    """
    graph = loss_graph(config, tokens, embedding)
    graph = replace(graph, outputs=(graph.output("loss"),))
    passes = options.training_passes()
    names = [step.name for step in passes]
    if stage == "forward":
        count = 0
    elif stage == "joint":
        count = next((k for k, name in enumerate(names) if name in _MADE_BY.values()), len(names))
    elif stage == "schedule":
        count = len(names)
    elif _MADE_BY[stage] in names:
        count = names.index(_MADE_BY[stage]) + 1
    else:
        raise BitgraphError(
            f"there is no stage '{stage}' yet: no pass makes it; choose forward, joint or schedule"
        )
    return PassManager(passes[:count]).run(graph)
