"""Reading data files: each format by its content, and a sentence for each that is wrong."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.data.reading import RecordSet, open_data, read_records
from bitgraph.models.data.records import Conversation, Document, Turn
from hypothesis import given, settings
from hypothesis import strategies as st

ALPACA = {"instruction": "Say hi.", "input": "", "output": "Hi."}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hi."},
    ]
}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}]}


def written(folder: Path, content: object, name: str = "data.json") -> Path:
    """`content` in a file: bytes as they are, a text as UTF-8, anything else as JSON."""
    path = folder / name
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def read(path: Path) -> RecordSet:
    return read_records(open_data(path))


def test_alpaca(tmp_path: Path) -> None:
    data = [ALPACA, {"instruction": "a", "output": "b", "id": 7}, ALPACA | {"input": "é\U0001f600"}]
    found = read(written(tmp_path, data))
    assert found.format.name == "Alpaca"
    assert found.records == [
        Conversation((Turn("user", "Say hi."), Turn("assistant", "Hi."))),
        Conversation((Turn("user", "a"), Turn("assistant", "b"))),
        Conversation((Turn("user", "Say hi.", "é\U0001f600"), Turn("assistant", "Hi."))),
    ]


def test_chat(tmp_path: Path) -> None:
    found = read(written(tmp_path, [CHAT]))
    turns = (Turn("system", "Be short."), Turn("user", "Hi?"), Turn("assistant", "Hi."))
    assert (found.format.name, found.records) == ("chat", [Conversation(turns)])


def test_sharegpt(tmp_path: Path) -> None:
    found = read(written(tmp_path, [SHAREGPT, SHAREGPT | {"system": "Be short."}]))
    turns = (Turn("user", "Hi?"), Turn("assistant", "Hi."))
    assert found.format.name == "ShareGPT"
    assert found.records == [
        Conversation(turns),
        Conversation((Turn("system", "Be short."), *turns)),
    ]


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data"])
@pytest.mark.parametrize("record", [ALPACA, CHAT, SHAREGPT, {"text": "a\nb"}])
def test_lines_are_read_as_an_array_is(tmp_path: Path, name: str, record: object) -> None:
    lines = "\r\n\n".join(json.dumps(record) for _ in range(3)) + "\n"
    assert read(written(tmp_path, lines, name)) == read(written(tmp_path, [record] * 3))


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    line = json.dumps({"text": "a\u2028b"}, ensure_ascii=False)
    assert read(written(tmp_path, line)).records == [Document("a\u2028b")]


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one\nmore\n\ntwo\n \n\n three\n", ["one\nmore", "two", " three"]),
        ("one\r\n\r\ntwo", ["one", "two"]),
        ("one", ["one"]),
    ],
)
@pytest.mark.parametrize("name", ["data.txt", "data"])
def test_plain_text(tmp_path: Path, text: str, documents: list[str], name: str) -> None:
    found = read(written(tmp_path, text, name))
    assert (found.format.name, found.records) == ("text", [*map(Document, documents)])


def test_a_text_file_may_begin_with_a_bracket(tmp_path: Path) -> None:
    assert read(written(tmp_path, "[1] A note.", "data.txt")).records == [Document("[1] A note.")]


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + json.dumps([{"text": "a"}]).encode())
    assert read(path).records == [Document("a")]


def chat(*turns: object) -> list[object]:
    return [CHAT, {"messages": list(turns)}]


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"is not JSON \(Expecting value at line 1, column 1\)"),
        (b'[{"instruction": "a",\n "output": }]', r"is not JSON \(.* at line 2, column 12\)"),
        (b'{"text": "a"}\n\n{"text": }', r"record 2 \(line 3\) is not JSON \(.* at column 10\)"),
        (b'{"text":\n"a"}', r"record 1 \(line 1\) is not JSON"),
        (b'{"text": "a"}\n3', r"record 2 \(line 2\) is not an object"),
        (b'{"text": "a"}\n{"txt": "a"}', r"record 2 \(line 2\) lacks 'text'"),
        (b"[" * 200_000, "holds JSON that is no training data"),
        (b"[" + b"1" * 10_000 + b"]", "holds JSON that is no training data"),
        (b'[\n{"instruction": "caf\xe9"}]', r"is not UTF-8 text \(byte 22, in line 2\)"),
        (json.dumps([ALPACA]).encode("utf-16"), r"is not UTF-8 text \(byte 0, in line 1\)"),
        (b"3", "is not a JSON array"),
        (b"null", "is not a JSON array"),
        ([], "has no records"),
        ([{"question": "a"}], "record 1 of 1 has none of the fields 'messages' "),
        ([ALPACA, "x"], "record 2 of 2 is not an object"),
        ([ALPACA, ALPACA, {"output": "b"}], "record 3 of 3 lacks 'instruction'"),
        ([{"instruction": "a", "response": "b"}], "record 1 of 1 lacks 'output'"),
        ([ALPACA | {"instruction": 3}], "record 1 of 1: 'instruction' is not a string"),
        ([ALPACA | {"input": None}], "record 1 of 1: 'input' is not a string"),
        ([ALPACA | {"output": ["b"]}], "record 1 of 1: 'output' is not a string"),
        ([ALPACA | {"input": "\ud83d"}], "record 1 of 1: 'input' holds a lone surrogate"),
        ([{"text": "\udc00"}], "record 1 of 1: 'text' holds a lone surrogate"),
        ([CHAT, ALPACA], "record 2 of 2 lacks 'messages', which the first record has"),
        (chat(), "record 2 of 2: 'messages' is empty"),
        ([{"messages": "a"}], "record 1 of 1: 'messages' is not a list"),
        (chat(USER, "a"), r"record 2 of 2: messages\[1\] is not an object"),
        (chat(USER, {"role": "user"}), r"record 2 of 2: messages\[1\] lacks 'content'"),
        (chat({"content": "a"}), r"record 2 of 2: messages\[0\] lacks 'role'"),
        (chat(USER | {"role": "tool"}), r"messages\[0\]: 'role' is 'tool', .* one of system, user"),
        (chat(USER | {"content": [1]}), r"messages\[0\]: 'content' is not a string"),
        ([{"conversations": []}], "record 1 of 1: 'conversations' is empty"),
        (
            [{"conversations": [{"from": "bing", "value": "a"}]}],
            r"record 1 of 1: conversations\[0\]: 'from' is 'bing', which is not one of system, hum",
        ),
        ([{"conversations": [{"from": "gpt"}]}], r"conversations\[0\] lacks 'value'"),
        ([SHAREGPT | {"system": 1}], "record 1 of 1: 'system' is not a string"),
    ],
)
def test_bad_files(tmp_path: Path, content: object, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(BitgraphError, match=problem) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message


def test_text_files_without_text(tmp_path: Path) -> None:
    with pytest.raises(BitgraphError, match=r"data\.txt has no text"):
        read(written(tmp_path, " \n\n", "data.txt"))
    with pytest.raises(BitgraphError, match=r"data\.txt is not UTF-8 text \(byte 4, in line 2\)"):
        read(written(tmp_path, b"abc\n\xff", "data.txt"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BitgraphError, match=r"none\.json cannot be read \(No such file"):
        open_data(tmp_path / "none.json")
    with pytest.raises(BitgraphError, match=r"cannot be read \("):
        open_data(tmp_path)


JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=3) | st.sampled_from(["user", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "conversations", "from", "value", "text", "output"]
            ),
            inner,
            max_size=3,
        )
    ),
)


@settings(max_examples=300)
@given(JSON.map(json.dumps).map(str.encode) | st.binary(max_size=40))
def test_a_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp(), data)
    with suppress(BitgraphError):
        assert read(path).records
