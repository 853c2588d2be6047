"""From records to tokens: what is trained, what is cut, split and skipped."""

from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.data.encoding import (
    CHUNK,
    Encoder,
    EncodingOptions,
    encode_prompt,
    encode_records,
)
from bitgraph.models.data.examples import Counts, EncodedSet
from bitgraph.models.data.records import Conversation, Document, Record, Turn
from bitgraph.models.data.source import prepare
from bitgraph.models.data.templates.template import Template, load_template, parse_template
from bitgraph.models.gguf import read_gguf
from byte_tokenizer import BOS, EOS, EOT, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

BYTES = byte_tokenizer()
ALPACA = load_template("alpaca")
CHAT = load_template("bitnet-chat")


def encode(
    records: list[Record],
    template: Template | None = ALPACA,
    length: int = 4096,
    everything: bool = False,
    tokenizer: Tokenizer = BYTES,
) -> EncodedSet:
    options = EncodingOptions(length, everything)
    return encode_records(records, Encoder(template, tokenizer, options), "data.json")


def task(instruction: str, output: str, context: str = "") -> Conversation:
    return Conversation((Turn("user", instruction, context), Turn("assistant", output)))


def alpaca_prompt(instruction: str, context: str) -> bytes:
    """Written from the format's description, not from the template."""
    begin = "Below is an instruction that describes a task"
    if context:
        begin += ", paired with an input that provides further context"
        context = f"### Input:\n{context}\n\n"
    return (
        f"{begin}. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n{context}### Response:\n"
    ).encode()


TASKS = st.tuples(st.text(max_size=9), st.text(max_size=9), st.text(min_size=1))


@given(st.lists(TASKS, min_size=1, max_size=5), st.integers(140, 320))
def test_alpaca_is_bos_prompt_response_eos_cut(
    tasks: list[tuple[str, str, str]], length: int
) -> None:
    whole = []
    for instruction, context, output in tasks:
        prompt = alpaca_prompt(instruction, context)
        if output.strip() and 1 + len(prompt) < length:
            whole.append((1 + len(prompt), [BOS, *prompt, *output.encode(), EOS]))
    records: list[Record] = [task(i, o, c) for i, c, o in tasks]
    if not whole:
        with pytest.raises(BitgraphError, match=f"maximum length of {length} tokens"):
            encode(records, length=length)
        return
    encoded = encode(records, length=length)
    assert [e.tokens.tolist() for e in encoded.examples] == [t[:length] for _, t in whole]
    assert [e.trained.tolist() for e in encoded.examples] == [
        [slot >= head for slot in range(min(len(tokens), length))] for head, tokens in whole
    ]
    assert encoded.counts.cut == sum(len(tokens) > length for _, tokens in whole)
    assert encoded.counts.skipped == len(tasks) - len(whole)
    assert {(e.tokens.dtype, e.trained.dtype) for e in encoded.examples} == {
        (np.dtype(np.int32), np.dtype(np.bool_))
    }


def test_every_turn_of_the_assistant_is_trained() -> None:
    turns = (
        Turn("system", "S"),
        Turn("user", "A"),
        Turn("assistant", "B"),
        Turn("user", "C"),
        Turn("assistant", "D"),
    )
    (example,) = encode([Conversation(turns)], CHAT).examples
    parts = [
        ([BOS, *b"System: S", EOT, *b"User: A", EOT, *b"Assistant: "], False),
        ([*b"B", EOT], True),
        ([*b"User: C", EOT, *b"Assistant: "], False),
        ([*b"D", EOT], True),
    ]
    assert example.tokens.tolist() == [token for tokens, _ in parts for token in tokens]
    assert example.trained.tolist() == [said for tokens, said in parts for _ in tokens]


def test_all_is_trained_but_the_first_token_if_asked() -> None:
    (example,) = encode([task("a", "")], everything=True).examples
    assert example.trained.tolist() == [False] + [True] * (example.tokens.size - 1)
    (document,) = encode([Document("ab")], None, everything=True).examples
    assert document.trained.tolist() == [False, True, True, True]


def test_the_shortest_length_that_trains_anything() -> None:
    head = 1 + len(alpaca_prompt("a", ""))
    encoded = encode([task("a", "bcd")], length=head + 1)
    assert encoded.examples[0].tokens[head:].tolist() == [ord("b")]
    assert encoded.counts == Counts(records=1, cut=1)
    with pytest.raises(BitgraphError, match=rf"all 1 records .* 1 because .* of {head} tokens"):
        encode([task("a", "bcd")], length=head)


def test_what_is_left_out_is_counted() -> None:
    records: list[Record] = [
        task("a", "b"),
        task("a", " \n"),
        Conversation((Turn("user", "a"),)),
        task("a" * 200, "b"),
    ]
    encoded = encode(records, length=200)
    assert encoded.counts == Counts(records=4, unanswered=2, crowded=1)
    assert [example.record for example in encoded.examples] == [1]
    with pytest.raises(BitgraphError, match=r"data\.json: all 2 records are skipped, 2 because"):
        encode(records[1:3])


@given(st.text(min_size=1, max_size=30), st.integers(2, 9))
def test_a_long_document_is_split_and_each_token_predicted_once(text: str, length: int) -> None:
    encoded = encode([Document(text), Document("a")], None, length)
    tokens = [BOS, *text.encode(), EOS]
    pieces = [example for example in encoded.examples if example.record == 1]
    predicted = [t for e in pieces for t in e.tokens[e.trained].tolist()]
    assert predicted == tokens[1:]
    assert all(2 <= e.tokens.size <= length for e in encoded.examples)
    before = [e.tokens[0] for e in pieces[1:]]
    assert before == [e.tokens[-1] for e in pieces[:-1]]
    assert encoded.counts.split == (len(tokens) > length) + (length < 3)


def test_special_tokens_in_data_stay_text() -> None:
    for template in (ALPACA, CHAT):
        (example,) = encode([task("Say </s>.", "<|eot_id|></s><s>", "<s>")], template).examples
        tokens = example.tokens.tolist()
        assert tokens.count(BOS) == 1
        assert tokens.count(EOS) + tokens.count(EOT) == (1 if template is ALPACA else 2)
        assert b"<|eot_id|></s><s>" in bytes(token for token in tokens if token < 256)


def test_one_bos_or_none() -> None:
    own = parse_template("own", "{{ bos_token }}{% generation %}a{% endgeneration %}")
    assert encode([task("a", "b")], own).examples[0].tokens.tolist() == [BOS, ord("a")]
    without = byte_tokenizer(add_bos=False)
    example = encode([task("a", "b")], tokenizer=without).examples[0]
    assert example.tokens[0] == ord("B")
    assert example.tokens[example.trained].tolist() == [ord("b"), EOS]


def test_a_chunk_is_like_any_other() -> None:
    """Records around the border of a chunk give what they give alone; progress is told."""
    records: list[Record] = [task(str(i), "b" if i % 3 else "") for i in range(CHUNK + 5)]
    seen: list[tuple[int, int]] = []
    encoder = Encoder(CHAT, BYTES, EncodingOptions())
    encoded = encode_records(records, encoder, "x", lambda *state: seen.append(state))
    assert seen == [(CHUNK, CHUNK + 5), (CHUNK + 5, CHUNK + 5)]
    for example in encoded.examples[::97] + encoded.examples[-3:]:
        (alone,) = encode([records[example.record - 1]], CHAT).examples
        assert example.tokens.tolist() == alone.tokens.tolist()
    assert len(encoded.examples) == sum(i % 3 > 0 for i in range(CHUNK + 5))


@pytest.mark.parametrize("template", [ALPACA, CHAT])
def test_a_prompt_is_what_training_saw(template: Template) -> None:
    turns = [Turn("user", "How?"), Turn("assistant", "So."), Turn("user", "Really?")]
    prompt = encode_prompt(turns, template, BYTES)
    (example,) = encode([Conversation((*turns, Turn("assistant", "Yes.")))], template).examples
    assert example.tokens[: len(prompt)].tolist() == prompt
    assert bytes(example.tokens[len(prompt) : -1].tolist()) == b"Yes."
    assert not example.trained[len(prompt) - 1]
    assert example.trained[len(prompt) :].all()


def test_a_template_that_marks_nothing() -> None:
    own = parse_template("own.jinja", "{{ messages[0].content }}")
    with pytest.raises(
        BitgraphError, match=r"data\.json: record 2: .*own\.jinja does not mark .*{% generation %}"
    ):
        encode([Conversation((Turn("user", "a"),)), task("a", "b")], own)
    assert encode([task("a", "b")], own, everything=True).examples[0].tokens.tolist()[1:] == [97]


def test_a_template_that_fails_names_the_record() -> None:
    own = parse_template("own.jinja", "\n{{ 1 // (messages|length - 2) }}")
    with pytest.raises(BitgraphError, match=r"data\.json: record 1: .*own\.jinja fails in line 2"):
        encode([task("a", "b")], own)
    with pytest.raises(BitgraphError, match=r"record 1 is a conversation; choose a --template"):
        encode([task("a", "b")], None)
    with pytest.raises(BitgraphError, match=r"max-seq-len \(1\) must be at least 2"):
        EncodingOptions(1)


@pytest.fixture(scope="module")
def mini(mini_path: Path) -> Tokenizer:
    return Tokenizer.from_metadata(read_gguf(mini_path).metadata, mini_path.name)


def test_counts_of_the_role_play_data(mini: Tokenizer, shared: Path) -> None:
    """326,183 is the count that the reference training run reports, BOS and EOS included."""
    path = shared / "data" / "roleplay_train.json"
    encoded = prepare(path, mini, EncodingOptions(256)).encoded
    assert (len(encoded.examples), encoded.counts) == (1500, Counts(records=1500, cut=495))
    assert sum(example.tokens.size for example in encoded.examples) == 326_183


def test_tokens_of_the_reference_batches(mini: Tokenizer, shared: Path) -> None:
    """Each row that the reference trained on is one of ours, with the same prompt length."""
    path = shared / "data" / "roleplay_train.json"
    encoded = prepare(path, mini, EncodingOptions(96)).encoded
    ours = {tuple(e.tokens.tolist()): e.trained for e in encoded.examples}
    with np.load(shared / "reference" / "mini_ref.npz") as file:
        for batch in range(11):
            ids, labels, mask = (file[f"batch{batch}|{key}"] for key in ("ids", "labels", "mask"))
            for row in range(2):
                width = mask[row].sum()
                trained = ours[tuple(ids[row, :width].tolist())]
                assert (trained == (labels[row, :width] != -100)).all()
