"""Reading Alpaca data: the file, the two templates, the tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.bitnet.tokenizer import _ALPHABET, Tokenizer
from bitgraph.models.data.alpaca import AlpacaRecord, load_alpaca, render, tokenize
from bitgraph.models.gguf import read_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

SHARED = Path(__file__).parents[2].parent / "shared"
BOS, EOS = 256, 257


def byte_tokenizer(add_bos: bool = True) -> Tokenizer:
    """A tokenizer whose token i is byte i."""
    character = {byte: character for character, byte in _ALPHABET.items()}
    metadata = {
        "model": "gpt2",
        "tokens": [character[byte] for byte in range(256)] + ["<s>", "</s>"],
        "token_type": np.array([1] * 256 + [3] * 2, np.int32),
        "merges": [],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "add_bos_token": add_bos,
    }
    return Tokenizer.from_metadata(
        {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "bytes.gguf"
    )


BYTES = byte_tokenizer()


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/{name} (not part of the repository)")
    return path


def written(folder: Path, content: object) -> Path:
    """`content` in a file: bytes as they are, anything else as JSON."""
    path = folder / "data.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def test_reads_records_in_order(tmp_path: Path) -> None:
    data = [GOOD, {"instruction": "a", "output": "b", "id": 7}, GOOD | {"input": "é\U0001f600"}]
    assert load_alpaca(written(tmp_path, data)) == [
        AlpacaRecord("Say hi.", "", "Hi."),
        AlpacaRecord("a", "", "b"),
        AlpacaRecord("Say hi.", "é\U0001f600", "Hi."),
    ]


def test_reads_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + json.dumps([GOOD]).encode())
    assert load_alpaca(path) == [AlpacaRecord("Say hi.", "", "Hi.")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"is not JSON \(Expecting value at line 1, column 1\)"),
        (b'[{"instruction": "a",\n "output": }]', r"is not JSON \(.* at line 2, column 12\)"),
        (b'{"instruction": "a"}\n{"instruction": "b"}', r"is not JSON \(Extra data at line 2"),
        (b"[" * 200_000, "holds JSON that is no Alpaca data"),
        (b"[" + b"1" * 10_000 + b"]", "holds JSON that is no Alpaca data"),
        (b'[{"instruction": "caf\xe9"}]', r"is not UTF-8 text \(byte 21\)"),
        (json.dumps([GOOD]).encode("utf-16"), r"is not UTF-8 text \(byte 0\)"),
        (GOOD, "is not a JSON array"),
        ("text", "is not a JSON array"),
        (None, "is not a JSON array"),
        ([], "has no records"),
        ([GOOD, "x"], "record 2 of 2 is not an object"),
        ([GOOD, GOOD, {"output": "b"}], "record 3 of 3 lacks 'instruction'"),
        ([{"instruction": "a", "response": "b"}], "record 1 of 1 lacks 'output'"),
        ([GOOD | {"instruction": 3}], "record 1 of 1: 'instruction' is not a string"),
        ([GOOD | {"input": None}], "record 1 of 1: 'input' is not a string"),
        ([GOOD | {"output": ["b"]}], "record 1 of 1: 'output' is not a string"),
        ([GOOD | {"input": "\ud83d"}], "record 1 of 1: 'input' holds a lone surrogate"),
    ],
)
def test_bad_files(tmp_path: Path, content: object, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(BitgraphError, match=problem) as raised:
        load_alpaca(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BitgraphError, match=r"none\.json cannot be read \(No such file"):
        load_alpaca(tmp_path / "none.json")
    with pytest.raises(BitgraphError, match=r"cannot be read \("):
        load_alpaca(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='[]{}",:ioe1 \\u', max_size=40).map(str.encode))
def test_no_file_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data)
    with pytest.raises(BitgraphError):
        load_alpaca(path)


def test_templates() -> None:
    assert render(AlpacaRecord("Add {1}.", "", "2")) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd {1}.\n\n### Response:\n",
        "2",
    )
    assert render(AlpacaRecord("Add {input}.", "{instruction}", "2")) == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd {input}.\n\n### Input:\n{instruction}\n\n### Response:\n",
        "2",
    )


RECORDS = st.builds(AlpacaRecord, st.text(max_size=9), st.text(max_size=9), st.text(min_size=1))


@given(st.lists(RECORDS, min_size=1, max_size=5), st.integers(140, 320))
def test_tokens_are_bos_prompt_response_eos_cut(records: list[AlpacaRecord], length: int) -> None:
    whole = []
    for record in records:
        prompt, response = (part.encode() for part in render(record))
        whole.append((1 + len(prompt), [BOS, *prompt, *response, EOS]))
    kept = [(head, tokens) for head, tokens in whole if head < length]
    if not kept:
        with pytest.raises(BitgraphError, match=f"maximum length of {length} tokens"):
            tokenize(records, BYTES, length)
        return
    encoded = tokenize(records, BYTES, length)
    assert [(e.prompt_length, e.tokens.tolist()) for e in encoded.examples] == [
        (head, tokens[:length]) for head, tokens in kept
    ]
    assert all(example.tokens.dtype == np.int32 for example in encoded.examples)
    assert encoded.cut == sum(len(tokens) > length for _, tokens in kept)
    assert encoded.skipped == len(records) - len(kept)


def test_the_shortest_length_that_trains_anything() -> None:
    record = AlpacaRecord("a", "", "bcd")
    head = 1 + len(render(record)[0])
    encoded = tokenize([record], BYTES, head + 1)
    assert (encoded.examples[0].tokens[head:].tolist(), encoded.cut) == ([ord("b")], 1)
    with pytest.raises(BitgraphError, match=f"all 1 records .* length of {head} tokens"):
        tokenize([record], BYTES, head)


def test_special_tokens_in_data_stay_text() -> None:
    record = AlpacaRecord("Say </s>.", "<s>", "</s><s>")
    example = tokenize([record], BYTES, 1000).examples[0].tokens.tolist()
    assert example.count(BOS) == example.count(EOS) == 1


def test_no_bos_for_a_model_without_one() -> None:
    example = tokenize([AlpacaRecord("a", "", "b")], byte_tokenizer(add_bos=False), 1000).examples[
        0
    ]
    assert example.tokens[0] == ord("B")
    assert example.tokens[example.prompt_length :].tolist() == [ord("b"), EOS]


@pytest.fixture(scope="module")
def mini() -> Tokenizer:
    path = shared("models/mini/mini-i2_s.gguf")
    return Tokenizer.from_metadata(read_gguf(path).metadata, path.name)


def test_counts_of_the_role_play_data(mini: Tokenizer) -> None:
    """326,183 is the count that the reference training run reports, BOS and EOS included."""
    encoded = tokenize(load_alpaca(shared("data/roleplay_train.json")), mini, 256)
    assert (len(encoded.examples), encoded.cut, encoded.skipped) == (1500, 495, 0)
    assert sum(example.tokens.size for example in encoded.examples) == 326_183


def test_tokens_of_the_reference_batches(mini: Tokenizer) -> None:
    """Each row that the reference trained on is one of ours, with the same prompt length."""
    encoded = tokenize(load_alpaca(shared("data/roleplay_train.json")), mini, 96)
    ours = {tuple(e.tokens.tolist()): e.prompt_length for e in encoded.examples}
    with np.load(shared("reference/mini_ref.npz")) as file:
        for batch in range(11):
            ids, labels, mask = (file[f"batch{batch}|{key}"] for key in ("ids", "labels", "mask"))
            for row in range(2):
                tokens = tuple(ids[row, : mask[row].sum()].tolist())
                assert ours[tokens] == (labels[row] != -100).argmax()


def test_empty_outputs_are_skipped_and_counted() -> None:
    records = [AlpacaRecord("a", "", "b"), AlpacaRecord("a", "", " \n"), AlpacaRecord("a", "", "")]
    encoded = tokenize(records, BYTES, 4096)
    assert (len(encoded.examples), encoded.skipped) == (1, 2)
    with pytest.raises(BitgraphError, match="all 2 records are skipped because their outputs"):
        tokenize(records[1:], BYTES, 4096)
