"""Tokens a second of the layouts of a step: padded, end to end, packed.

Every layout trains the same records. They take turns, each on a trainer of its own, so that work
beside the benchmark hits all of them alike. The first steps of each are not timed: programs are
compiled in them.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click
from bitgraph.cli.options import backend_option, device_option, make_backend
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.data.encoding import EncodingOptions
from bitgraph.models.data.examples import Example
from bitgraph.models.data.source import prepare
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import StepReport, Trainer

PATH = click.Path(path_type=Path)
LAYOUTS = ("pad", "flat", "pack")


@click.command()
@click.option("--model", type=PATH, required=True)
@click.option("--data", type=PATH, required=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option("--max-seq-len", default=256, show_default=True)
@click.option("--tokens-per-step", default=0, help="Of packed steps; as large as padded if 0.")
@click.option("--layout", "layouts", multiple=True, default=LAYOUTS, help="One of them; repeat it.")
@click.option("--steps", default=8, show_default=True, help="Timed steps of a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "to", type=PATH, help="File for the figures.")
@backend_option
@device_option
def main(
    model: Path,
    data: Path,
    batch_size: int,
    max_seq_len: int,
    tokens_per_step: int,
    layouts: tuple[str, ...],
    steps: int,
    rounds: int,
    to: Path | None,
    backend: str,
    device: str | None,
) -> None:
    """Compare the layouts on a model and records of yours."""
    checkpoint = load_checkpoint(model)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(model))
    examples = prepare(data, tokenizer, EncodingOptions(max_seq_len)).encoded.examples
    runs: dict[str, Iterator[StepReport]] = {}
    for layout in layouts:
        options = TrainingOptions(
            lr=2e-3,
            warmup=6,
            epochs=1000,
            batch_size=batch_size,
            max_seq_len=max_seq_len,
            layout=layout,  # type: ignore[arg-type]
            tokens_per_step=tokens_per_step if layout == "pack" else 0,
            max_steps=10_000,
        )
        trainer = Trainer(
            checkpoint.config, checkpoint.weights, make_backend(backend, device), options
        )
        runs[layout] = _warm(trainer, examples)
    timed: dict[str, list[StepReport]] = defaultdict(list)
    for _ in range(rounds):
        for layout in layouts:
            next(runs[layout])  # its seconds go back to the layout's last turn
            timed[layout] += islice(runs[layout], steps)
    figures = {layout: _figures(reports) for layout, reports in timed.items()}
    for layout, row in figures.items():
        ratio = row["real"] / figures[layouts[0]]["real"]
        click.echo(
            f"{layout:5} {row['supervised']:8,.0f} supervised {row['real']:8,.0f} real "
            f"{row['padded']:8,.0f} padded tokens/s, {row['real'] / row['padded']:4.0%} real; "
            f"{ratio:.2f}x the real tokens/s of {layouts[0]}"
        )
    if to:
        to.write_text(json.dumps(figures, indent=1) + "\n")


def _warm(trainer: Trainer, examples: list[Example]) -> Iterator[StepReport]:
    """The reports of a run from where all of its programs are compiled."""
    reports = trainer.fit(examples)
    sizes: set[int] = set()
    while True:  # until a window of steps met no size that is new
        window = [*islice(reports, 2)]
        new = {report.slots for report in window} - sizes
        sizes |= new
        if not new:
            return reports


def _figures(reports: list[StepReport]) -> dict[str, Any]:
    """Medians over steps, because other work on the machine slows some of them down."""
    names = {"supervised": "supervised", "real": "tokens", "padded": "slots"}
    return {
        name: median(getattr(report, field) / report.seconds for report in reports)
        for name, field in names.items()
    }


if __name__ == "__main__":
    main()
