"""A data file made ready to train on, once: the result is cached on disk.

A cache entry is keyed by everything that it follows from (the file's bytes, the template's text,
the tokenizer, the options), and its contents are believed only if their digest is right.
"""

import io
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...graph.storage import Storage
from ..bitnet.tokenizer import Tokenizer
from .encoding import Encoder, EncodingOptions, OnProgress, encode_records, texts_of
from .examples import Counts, EncodedSet, from_arrays, to_arrays
from .reading import DataFile, RecordSet, open_data, read_records
from .templates.marks import Specials
from .templates.template import Template, load_template

VERSION = 1
"""To be raised when the same inputs begin to give other examples."""


@dataclass(frozen=True)
class PreparedSet:
    """A file's examples.

    Attributes:
        encoded: the examples and what was cut or skipped.
        format: the form of its records, for people.
        template: name of the template, None for plain text.
        cached: whether they come from an earlier run.
    """

    encoded: EncodedSet
    format: str
    template: str | None
    cached: bool


def prepare(
    path: Path,
    tokenizer: Tokenizer,
    options: EncodingOptions,
    template: str | None = None,
    storage: Storage | None = None,
    on_progress: OnProgress | None = None,
) -> PreparedSet:
    """Read, render and tokenize a data file.

    Args:
        path: the file.
        tokenizer: of the model.
        options: how records become tokens.
        template: name or file of one; None takes that of the file's format.
        storage: where to keep the result, None for nowhere.
        on_progress: told how many records are done.

    Raises:
        BitgraphError: the file, a record or the template is wrong, or no example is left.
    """
    file = open_data(path)
    chosen = load_template(template) if template else None
    key = _key(file, tokenizer, options, chosen)
    if storage and (kept := _unpack(storage.read("data", key))):
        return kept
    records = read_records(file)
    chosen = chosen or _own_template(records)
    encoder = Encoder(chosen, tokenizer, options)
    encoded = encode_records(records.records, encoder, str(path), on_progress)
    used = chosen.name if chosen and records.format.template else None
    prepared = PreparedSet(encoded, records.format.name, used, cached=False)
    if storage:
        storage.write("data", key, _pack(prepared))
    return prepared


def read_texts(path: Path, specials: Specials, template: str | None = None) -> list[str]:
    """All text of a data file between special tokens: what a tokenizer is trained on.

    Args:
        path: the file.
        specials: names of special tokens.
        template: as for `prepare`.

    Raises:
        BitgraphError: the file, a record or the template is wrong.
    """
    records = read_records(open_data(path))
    chosen = load_template(template) if template else _own_template(records)
    return list(texts_of(records.records, chosen, specials, str(path)))


def _own_template(records: RecordSet) -> Template | None:
    name = records.format.template
    return load_template(name) if name else None


def _key(
    file: DataFile, tokenizer: Tokenizer, options: EncodingOptions, template: Template | None
) -> str:
    """All that the examples follow from."""
    own = [load_template(name).source for name in ("alpaca", "bitnet-chat")]
    source = repr(own) if template is None else f"{template.name}: {template.source}"
    # The suffix decides whether a file is read as text.
    facts = (VERSION, file.digest, file.path.suffix, tokenizer.digest, asdict(options), source)
    return repr(facts)


def _pack(prepared: PreparedSet) -> bytes:
    arrays: dict[str, Any] = {
        "counts": np.array([*asdict(prepared.encoded.counts).values()], np.int64),
        "format": np.array(prepared.format),
        "template": np.array(prepared.template or ""),
        **to_arrays(prepared.encoded),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(data: bytes | None) -> PreparedSet | None:
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            counts = Counts(*arrays["counts"].tolist())
            encoded = from_arrays(dict(arrays.items()), counts)
            template = str(arrays["template"]) or None
            return PreparedSet(encoded, str(arrays["format"]), template, cached=True)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile):  # of another version
        return None
