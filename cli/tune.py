"""`bitgraph tune`: measure what the nodes of a training step cost on this device."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from ..graph.ir import Node
from ..models.bitnet.checkpoint import load_checkpoint
from ..models.data.batching import make_batch
from ..models.data.examples import prompted
from ..models.files import make_folder, write_text
from ..models.training.options import TrainingOptions
from ..models.training.trainer import Trainer
from ..passes.checkpoint.costs import estimate, format_table, table_of
from .costs import costs_path
from .options import (
    PATH,
    activation_option,
    backend_option,
    device_option,
    from_defaults,
    make_backend,
    model_option,
)

_LAYERS = 2
"""Layers that are measured: the first, which differs, and one that stands for the others."""

Measured: TypeAlias = Sequence[tuple[Node, float]]
"""Nodes and the seconds that each of them took."""


@click.command()
@model_option
@click.option("--batch-size", type=int, **from_defaults(TrainingOptions, "batch_size"))
@click.option("--max-seq-len", type=int, **from_defaults(TrainingOptions, "max_seq_len"))
@click.option("--rank", type=int, **from_defaults(TrainingOptions, "rank"))
@click.option(
    "-o", "--out", type=PATH, help="Where to write the table; the cache folder if left out."
)
@activation_option
@backend_option
@device_option
def tune(
    model: Path,
    batch_size: int,
    max_seq_len: int,
    rank: int,
    out: Path | None,
    activation: str | None,
    backend: str,
    device: str | None,
) -> None:
    """Measure what computing again costs, for `train` to weigh it against memory.

    A few layers of the model take steps on random tokens. The table is kept for the device and its
    driver, and `train` uses it from then on.
    """
    options = TrainingOptions(rank=rank, batch_size=batch_size, max_seq_len=max_seq_len)
    checkpoint = load_checkpoint(model, activation)
    layers = min(checkpoint.config.num_hidden_layers, _LAYERS)
    config = replace(checkpoint.config, num_hidden_layers=layers)
    chosen = make_backend(backend, device)
    trainer = Trainer(config, checkpoint.weights, chosen, options)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (batch_size, max_seq_len), np.int32)
    measured = trainer.profile(make_batch([prompted(row, 1) for row in ids]))
    table = table_of(chosen.name, measured)
    path = out or costs_path(chosen)
    make_folder(path.parent)
    write_text(path, format_table(table))
    console = Console(highlight=False)
    _show(console, measured)
    console.print(f"costs of {len(table.measured)} kinds of nodes on {chosen.name}: {path}")


def _show(console: Console, measured: Measured) -> None:
    """Seconds by op, beside the built-in estimate."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for node, seconds in measured:
        row = totals[node.op]
        for k, amount in enumerate((1.0, seconds, estimate(node))):
            row[k] += amount
    table = Table("op", "nodes", "ms", "estimated ms")
    for op, (count, seconds, guess) in sorted(totals.items(), key=lambda item: -item[1][1]):
        table.add_row(op, f"{count:.0f}", f"{seconds * 1e3:.3f}", f"{guess * 1e3:.3f}")
    console.print(table)
