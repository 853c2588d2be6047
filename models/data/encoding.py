"""From records to token sequences of which is known what is trained.

What the assistant says and what it answers to are tokenized apart, so that no token spans both and
generation meets the very prompt tokens that training saw.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from ...graph.errors import BitgraphError
from ..bitnet.tokenizer import Tokenizer
from .examples import Counts, EncodedSet, Example
from .records import Conversation, Document, Record, Turn
from .templates.marks import Span, Specials
from .templates.template import Template, render

CHUNK = 1024
"""Records that are tokenized together."""

OnProgress = Callable[[int, int], None]
"""Called with the number of records that are done and that of all."""


@dataclass(frozen=True)
class EncodingOptions:
    """How records become tokens.

    Attributes:
        max_length: tokens an example is cut to; longer documents are split instead.
        train_on_prompt: train every token, not only what the assistant says.

    Raises:
        BitgraphError: the length leaves nothing to predict.
    """

    max_length: int = 512
    train_on_prompt: bool = False

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise BitgraphError(f"max-seq-len ({self.max_length}) must be at least 2")


@dataclass(frozen=True)
class Encoder:
    """What turns records into examples: a template, a tokenizer, options."""

    template: Template | None
    tokenizer: Tokenizer
    options: EncodingOptions

    def specials(self) -> Specials:
        """The tokenizer's special tokens, for the template."""
        t = self.tokenizer
        return Specials.of(t.special_ids, t.bos_id, t.eos_id)


def encode_records(
    records: Sequence[Record], encoder: Encoder, source: str, on_progress: OnProgress | None = None
) -> EncodedSet:
    """The examples of all records.

    Args:
        records: all of one file.
        encoder: makes them.
        source: the file's name, for errors.
        on_progress: told after each chunk.

    Raises:
        BitgraphError: a record cannot be rendered, or no example is left.
    """
    specials = encoder.specials()
    examples: list[Example] = []
    counts = Counts(records=len(records))
    for begin in range(0, len(records), CHUNK):
        chunk = records[begin : begin + CHUNK]
        spans = [
            _spans(record, encoder, specials, f"{source}: record {number}")
            for number, record in enumerate(chunk, begin + 1)
        ]
        for number, tokens, said in _tokenize(spans, encoder.tokenizer, begin + 1):
            made, count = _examples(chunk[number - begin - 1], tokens, said, number, encoder)
            examples += made
            counts += count
        if on_progress is not None:
            on_progress(begin + len(chunk), len(records))
    if not examples:
        raise BitgraphError(
            f"{source}: all {len(records)} records are skipped, {counts.unanswered} because the "
            f"assistant says nothing in them, {counts.crowded} because what it answers to fills "
            f"the maximum length of {encoder.options.max_length} tokens; mend them or raise it"
        )
    return EncodedSet(examples, counts)


def texts_of(
    records: Sequence[Record], template: Template | None, specials: Specials, source: str
) -> Iterator[str]:
    """All text of records between special tokens, as a tokenizer meets it.

    Args:
        records: all of one file.
        template: for conversations.
        specials: names of special tokens.
        source: the file's name, for errors.

    Raises:
        BitgraphError: a record cannot be rendered.
    """
    for number, record in enumerate(records, 1):
        spans = _rendered(record, template, specials, f"{source}: record {number}")
        yield from (span.text for span in spans if not span.special)


def encode_prompt(turns: Sequence[Turn], template: Template, tokenizer: Tokenizer) -> list[int]:
    """The tokens before the assistant's next words, as training has them."""
    specials = Specials.of(tokenizer.special_ids, tokenizer.bos_id, tokenizer.eos_id)
    spans = render(template, turns, specials, to_be_continued=True)
    ((_, tokens, _),) = _tokenize([spans], tokenizer, 1)
    return tokens


def _spans(record: Record, encoder: Encoder, specials: Specials, where: str) -> list[Span]:
    spans = _rendered(record, encoder.template, specials, where)
    is_answered = isinstance(record, Conversation) and _answered(record)
    if is_answered and not any(span.said for span in spans):
        _expect_everything(encoder, where)
    return spans


def _rendered(
    record: Record, template: Template | None, specials: Specials, where: str
) -> list[Span]:
    if isinstance(record, Document):
        return [
            Span(record.text, said=True, special=False),
            Span(specials.eos, said=True, special=True),
        ]
    if template is None:
        raise BitgraphError(f"{where} is a conversation; choose a --template for it")
    try:
        return render(template, record.turns, specials)
    except BitgraphError as error:
        raise BitgraphError(f"{where}: {error}") from error


def _expect_everything(encoder: Encoder, where: str) -> None:
    """A template that marks nothing serves only to train every token."""
    if encoder.template and not encoder.options.train_on_prompt:
        raise BitgraphError(
            f"{where}: the template {encoder.template.name} does not mark what the assistant "
            "says; put it between {% generation %} and {% endgeneration %}, or use "
            "--train-on-prompt"
        )


def _tokenize(
    rendered: Sequence[Sequence[Span]], tokenizer: Tokenizer, first: int
) -> Iterator[tuple[int, list[int], list[bool]]]:
    """Number, tokens and which of them are said, of each rendered record; with BOS if need be."""
    texts = [span.text for spans in rendered for span in spans if not span.special]
    pieces = iter(tokenizer.encode_batch(texts))
    for number, spans in enumerate(rendered, first):
        ids = [
            [tokenizer.special_ids[span.text]] if span.special else next(pieces) for span in spans
        ]
        tokens = [*chain.from_iterable(ids)]
        said = [*chain.from_iterable([s.said] * len(i) for s, i in zip(spans, ids, strict=True))]
        if tokenizer.add_bos and tokens[:1] != [tokenizer.bos_id]:
            tokens.insert(0, tokenizer.bos_id)
            said.insert(0, False)
        yield number, tokens, said


def _examples(
    record: Record, tokens: list[int], said: list[bool], number: int, encoder: Encoder
) -> tuple[list[Example], Counts]:
    """What one record gives, which may be nothing."""
    longest, everything = encoder.options.max_length, encoder.options.train_on_prompt
    ids = np.array(tokens, np.int32)
    if isinstance(record, Document):
        return _split(ids, longest, number)
    if not everything and not _answered(record):
        return [], Counts(unanswered=1)
    trained = np.ones(ids.size, np.bool_) if everything else np.array(said, np.bool_)
    trained[:1] = False
    if not trained[:longest].any():
        return [], Counts(crowded=1)
    cut = Counts(cut=int(ids.size > longest))
    return [Example(ids[:longest], trained[:longest], number)], cut


def _answered(record: Conversation) -> bool:
    return any(turn.role == "assistant" and turn.content.strip() for turn in record.turns)


def _split(ids: npt.NDArray[np.int32], longest: int, number: int) -> tuple[list[Example], Counts]:
    """A document in pieces, each beginning with the last token of the one before.

    So every token but the first is predicted once.
    """
    pieces = [ids[start : start + longest] for start in range(0, ids.size - 1, longest - 1)]
    examples = [Example(piece, np.arange(piece.size) > 0, number) for piece in pieces]
    return examples, Counts(split=int(len(pieces) > 1))
