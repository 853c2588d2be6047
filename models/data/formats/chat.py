"""Chat records as Hugging Face and OpenAI write them: {"messages": [{"role", "content"}, ...]}."""

from collections.abc import Mapping
from typing import Final

from ..records import ROLES, Conversation, Role, Turn
from .format import Format, role_field, text_field, turn_fields

_ROLES: Final[Mapping[str, Role]] = {role: role for role in ROLES}


def _read(item: Mapping[str, object], where: str) -> Conversation:
    turns = (
        Turn(role_field(turn, "role", _ROLES, place), text_field(turn, "content", place))
        for turn, place in turn_fields(item, "messages", where)
    )
    return Conversation(tuple(turns))


CHAT = Format("chat", "messages", "bitnet-chat", _read)
