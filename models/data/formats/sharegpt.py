"""ShareGPT's records: {"conversations": [{"from", "value"}, ...]}, perhaps with a "system" text."""

from collections.abc import Mapping
from typing import Final

from ..records import Conversation, Role, Turn
from .format import Format, role_field, text_field, turn_fields

_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


def _read(item: Mapping[str, object], where: str) -> Conversation:
    system = text_field(item, "system", where) if "system" in item else ""
    turns = (
        Turn(role_field(turn, "from", _ROLES, place), text_field(turn, "value", place))
        for turn, place in turn_fields(item, "conversations", where)
    )
    return Conversation((*([Turn("system", system)] if system else []), *turns))


SHAREGPT = Format("ShareGPT", "conversations", "bitnet-chat", _read)
