"""A corpus as files."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ..files import make_folder, write_text
from .corpus import Corpus, Record


def corpus_files(folder: Path) -> dict[str, Path]:
    """The file of each part of a corpus, by the part's name."""
    return {field.name: folder / f"{field.name}.json" for field in fields(Corpus)}


def save_corpus(folder: Path, corpus: Corpus) -> None:
    """Write each part as a JSON array, a record a line; files that are there are replaced.

    Raises:
        BitgraphError: the folder cannot be made or written to.
    """
    make_folder(folder)
    for part, path in corpus_files(folder).items():
        write_text(path, _array(getattr(corpus, part)))


def _array(records: Sequence[Record]) -> str:
    return "[\n" + ",\n".join(json.dumps(asdict(record)) for record in records) + "\n]\n"
