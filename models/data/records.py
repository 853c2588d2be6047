"""What a record of any format becomes: a conversation, or a document without roles."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: who says it.
        content: the text, which may be empty.
        input: what an Alpaca instruction is about, kept apart from it; "" elsewhere.
    """

    role: Role
    content: str
    input: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns in their order, at least one.

    Attributes:
        turns: what is said.
        task: the kind of question, "" if the record does not say; answers are counted by it.
    """

    turns: tuple[Turn, ...]
    task: str = ""


@dataclass(frozen=True)
class Document:
    """Text to go on with as it is."""

    text: str


Record: TypeAlias = Conversation | Document
