"""The conversation format of BitNet b1.58 2B4T.

Each message is its role, capitalized, ": ", its content without blanks around it, and the end of
the turn; the answer follows "Assistant: ". Source: the chat template that
microsoft/bitnet-b1.58-2B-4T comes with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .tokenizer import Tokenizer

_END_OF_TURN = "<|eot_id|>"


@dataclass(frozen=True)
class Message:
    """One turn: `role` is "system", "user" or "assistant"."""

    role: str
    content: str


def chat_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens behind which the assistant's next answer comes.

    Names of special tokens in a message stay text. Where a vocabulary has no end of a turn, the
    end of a text stands for it.
    """
    end = tokenizer.encode(_END_OF_TURN, parse_special=True)
    end = end if len(end) == 1 else [tokenizer.eos_id]
    ids = [tokenizer.bos_id] if tokenizer.add_bos else []
    for message in messages:
        ids += tokenizer.encode(f"{message.role.capitalize()}: {message.content.strip()}") + end
    return ids + tokenizer.encode("Assistant: ")
