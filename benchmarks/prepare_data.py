"""Seconds to read, render, tokenize and pack many Alpaca-sized records, and to do it again."""

import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from bitgraph.graph.storage import Storage
from bitgraph.models.bitnet.synthetic_tokenizer import synthetic_tokenizer
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.data.encoding import EncodingOptions
from bitgraph.models.data.examples import lengths_of
from bitgraph.models.data.ordering import Batching, plan_epoch
from bitgraph.models.data.source import prepare
from bitgraph.models.gguf import read_gguf

PATH = click.Path(path_type=Path)
TEXT = (
    "a able about and because ternary weights are only minus one zero plus quantizer, attention "
    "explains how the model reads every sentence, then 42 answers: (why not?) Berlin's weather"
)


@click.command()
@click.option("--model", type=PATH, help="Whose tokenizer; else a made-up one of 128,256 tokens.")
@click.option("--records", default=52_000, show_default=True)
@click.option("--tokens-per-step", default=4096, show_default=True)
def main(model: Path | None, records: int, tokens_per_step: int) -> None:
    """Time the way of made-up records to packed steps."""
    metadata = read_gguf(model).metadata if model else synthetic_tokenizer(128_256)
    tokenizer = Tokenizer.from_metadata(metadata, str(model))
    with tempfile.TemporaryDirectory() as folder:
        data, storage = Path(folder) / "data.json", Storage(Path(folder) / "cache")
        data.write_text(json.dumps([*_records(records)]))
        for name in ("read, rendered, tokenized", "from the cache"):
            with _timed(name):
                prepared = prepare(data, tokenizer, EncodingOptions(), storage=storage)
    lengths = lengths_of(prepared.encoded.examples)
    with _timed("packed"):
        plan = plan_epoch(lengths, Batching("pack", tokens_per_step=tokens_per_step), 0, 0)
    full = lengths.sum() / (tokens_per_step * len(plan))
    click.echo(f"{lengths.size:,} examples, {lengths.sum():,} tokens; steps are {full:.1%} full")


def _records(count: int) -> Iterator[dict[str, str]]:
    """As long as Alpaca's: two of five have an input."""
    source, words = random.Random(0), TEXT.split()

    def text(least: int, most: int) -> str:
        return " ".join(source.choices(words, k=source.randint(least, most)))

    for _ in range(count):
        context = text(5, 25) if source.random() < 0.4 else ""
        yield {"instruction": text(6, 20), "input": context, "output": text(5, 90)}


@contextmanager
def _timed(what: str) -> Iterator[None]:
    begin, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    click.echo(f"{what}: {seconds:.1f} s, {used:.1f} s of CPU time")


if __name__ == "__main__":
    main()
