"""`bitgraph corpus`: instruction records to pretrain a small model on, and a skill to add."""

from collections import Counter
from dataclasses import fields
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ..graph.errors import BitgraphError
from ..models.corpus.corpus import RECORDS, Corpus, make_corpus
from ..models.corpus.saving import corpus_files, save_corpus


@click.command()
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for train.json, eval.json, skill_train.json and skill_eval.json.",
)
@click.option(
    "--records",
    type=click.IntRange(min=1),
    default=RECORDS,
    show_default=True,
    help="Records in train.json; the other files do not depend on it.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
def corpus(seed: int, out: Path, records: int, force: bool) -> None:
    """Write instruction records whose answers can be checked.

    The same seed gives the same files. No question of an eval file occurs in a train file, in any
    wording.
    """
    existing = [path for path in corpus_files(out).values() if path.exists()]
    if existing and not force:
        raise BitgraphError(
            f"{existing[0]} exists; choose another folder or add --force to replace it"
        )
    made = make_corpus(seed, records)
    save_corpus(out, made)
    _print_counts(made)


def _print_counts(corpus: Corpus) -> None:
    """Records of each task in each part."""
    parts = [field.name for field in fields(Corpus)]
    counts = {part: Counter(record.task for record in getattr(corpus, part)) for part in parts}
    tasks = dict.fromkeys(task for part in parts for task in counts[part])
    table = Table("task", box=None)
    for part in parts:
        table.add_column(part, justify="right")
    for task in tasks:
        table.add_row(task, *(f"{counts[part][task]:,}" for part in parts))
    table.add_row("all", *(f"{counts[part].total():,}" for part in parts))
    Console().print(table)
