"""Plain text for continued training: {"text"} records, or a text file without any form."""

import re
from collections.abc import Mapping

from ..records import Document
from .format import Format, text_field


def _read(item: Mapping[str, object], where: str) -> Document:
    return Document(text_field(item, "text", where))


TEXT = Format("text", "text", None, _read)


def split_documents(text: str) -> list[Document]:
    """The documents of a text file: parted by blank lines if there are any, else one a line."""
    text = text.replace("\r\n", "\n").strip()
    parts = re.split(r"\n(?:[ \t]*\n)+", text)
    parts = parts if len(parts) > 1 else text.split("\n")
    return [Document(part) for part in parts if part.strip()]
