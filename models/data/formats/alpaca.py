"""Stanford Alpaca's records: {"instruction", "input", "output"}, `input` often "" or absent."""

from collections.abc import Mapping

from ..records import Conversation, Turn
from .format import Format, text_field


def _read(item: Mapping[str, object], where: str) -> Conversation:
    instruction = text_field(item, "instruction", where)
    context = text_field(item, "input", where) if "input" in item else ""
    output = text_field(item, "output", where)
    return Conversation((Turn("user", instruction, context), Turn("assistant", output)))


ALPACA = Format("Alpaca", "instruction", "alpaca", _read)
