"""Reading a data file of any format that bitgraph knows, recognized by its content."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...graph.errors import BitgraphError
from .formats.alpaca import ALPACA
from .formats.chat import CHAT
from .formats.format import Format
from .formats.sharegpt import SHAREGPT
from .formats.text import TEXT, split_documents
from .records import Conversation, Record

FORMATS = (CHAT, SHAREGPT, ALPACA, TEXT)
"""The forms of JSON records; a file has the first whose field its first record has."""

_JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
_TEXT_SUFFIXES = frozenset({".txt", ".text", ".md"})
_FORMS = "JSON records are one array of objects, or one object a line"


@dataclass(frozen=True)
class DataFile:
    """A file as it was read.

    Attributes:
        path: where it lies.
        contents: all of its text.
        digest: SHA-256 of its bytes, in hexadecimal.
    """

    path: Path
    contents: str
    digest: str


@dataclass(frozen=True)
class RecordSet:
    """The records of a file, all of one format."""

    records: list[Record]
    format: Format


def open_data(path: Path) -> DataFile:
    """Read a file's text.

    Raises:
        BitgraphError: it cannot be read or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} cannot be read ({reason}); give a data file") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BitgraphError(
            f"{path} is not UTF-8 text (byte {error.start}, in line {line}); save it as UTF-8"
        ) from error
    return DataFile(path, text, hashlib.sha256(data).hexdigest())


def read_records(file: DataFile) -> RecordSet:
    """The records of a file.

    A file that begins with "[" or "{" holds JSON records, unless its suffix says that it is text.

    Raises:
        BitgraphError: the file has no records, or one of them is not as its format wants it.
    """
    if _is_text(file):
        documents: list[Record] = [*split_documents(file.contents)]
        if not documents:
            raise BitgraphError(f"{file.path} has no text; there is nothing to train on")
        return RecordSet(documents, TEXT)
    items = [*_items(file)]
    if not items:
        raise BitgraphError(f"{file.path} has no records; there is nothing to train on")
    form = _recognize(*items[0])
    return RecordSet([_read(form, item, where) for item, where in items], form)


def _is_text(file: DataFile) -> bool:
    suffix = file.path.suffix.lower()
    if suffix in _TEXT_SUFFIXES:
        return True
    return suffix not in _JSON_SUFFIXES and file.contents.lstrip()[:1] not in ("[", "{", "")


def _items(file: DataFile) -> Iterator[tuple[object, str]]:
    """The JSON values of a file, each with where it stands."""
    if file.contents.lstrip()[:1] == "{":
        yield from _lines(file)
        return
    data = _parse(file.contents, str(file.path), in_one_line=False)
    if not isinstance(data, list):
        raise BitgraphError(f"{file.path} is not a JSON array; {_FORMS}")
    for number, item in enumerate(data, 1):
        yield item, f"{file.path}: record {number} of {len(data)}"


def _lines(file: DataFile) -> Iterator[tuple[object, str]]:
    record = 0
    for number, line in enumerate(file.contents.split("\n"), 1):
        if line.strip():
            record += 1
            where = f"{file.path}: record {record} (line {number})"
            yield _parse(line, where, in_one_line=True), where


def _parse(text: str, where: str, in_one_line: bool) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = "" if in_one_line else f"line {error.lineno}, "
        place = f"{error.msg} at {line}column {error.colno}"
        raise BitgraphError(f"{where} is not JSON ({place}); {_FORMS}") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number too long
        raise BitgraphError(f"{where} holds JSON that is no training data; {_FORMS}") from error


def _recognize(item: object, where: str) -> Format:
    if not isinstance(item, dict):
        raise BitgraphError(f"{where} is not an object; {_FORMS}")
    for form in FORMATS:
        if form.field in item:
            return form
    known = ", ".join(f"'{form.field}' ({form.name})" for form in FORMATS)
    raise BitgraphError(f"{where} has none of the fields {known}; bitgraph reads these forms")


def _read(form: Format, item: object, where: str) -> Record:
    if not isinstance(item, dict):
        raise BitgraphError(f"{where} is not an object; it needs '{form.field}'")
    if form.field not in item:
        raise BitgraphError(
            f"{where} lacks '{form.field}', which the first record has; add it or remove the record"
        )
    record, task = form.read(item, where), item.get("task")
    if isinstance(record, Conversation) and isinstance(task, str):
        return Conversation(record.turns, task)
    return record
