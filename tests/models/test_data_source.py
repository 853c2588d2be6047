"""Preparing a data file, and the cache that saves doing it again."""

import json
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.storage import Storage
from bitgraph.models.data import source
from bitgraph.models.data.encoding import EncodingOptions
from bitgraph.models.data.examples import EncodedSet
from bitgraph.models.data.source import PreparedSet, prepare
from byte_tokenizer import byte_tokenizer

OPTIONS = EncodingOptions(300)
TOKENIZER = byte_tokenizer()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    records = [{"instruction": f"Say {i}.", "output": "b" * 50 * (i % 5)} for i in range(20)]
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "cache")


def contents(encoded: EncodedSet) -> list[tuple[int, list[int], list[bool]]]:
    return [(e.record, e.tokens.tolist(), e.trained.tolist()) for e in encoded.examples]


def assert_same(one: PreparedSet, other: PreparedSet) -> None:
    assert contents(one.encoded) == contents(other.encoded)
    assert one.encoded.counts == other.encoded.counts
    assert (one.format, one.template) == (other.format, other.template)
    types = [(e.tokens.dtype, e.trained.dtype) for e in (*one.encoded.examples,)]
    assert set(types) == {(np.dtype(np.int32), np.dtype(np.bool_))}


def test_a_second_time_comes_from_the_cache(data: Path, storage: Storage) -> None:
    plain = prepare(data, TOKENIZER, OPTIONS)
    first, second = (prepare(data, TOKENIZER, OPTIONS, storage=storage) for _ in range(2))
    assert (plain.cached, first.cached, second.cached) == (False, False, True)
    assert_same(first, plain)
    assert_same(second, plain)
    assert (second.format, second.template) == ("Alpaca", "alpaca")
    assert second.encoded.counts.unanswered == 4
    assert second.encoded.counts.cut > 0


def test_text_comes_from_the_cache(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "data.txt"
    path.write_text("one\ntwo\n" + "three" * 100)
    first, second = (prepare(path, TOKENIZER, OPTIONS, storage=storage) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert_same(first, second)
    assert (second.format, second.template, second.encoded.counts.split) == ("text", None, 1)


def test_anything_that_matters_makes_another_entry(
    data: Path, storage: Storage, tmp_path: Path
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{% generation %}{{ messages[-1].content }}{% endgeneration %}")

    def cached(**changed: object) -> bool:
        given = {"path": data, "tokenizer": TOKENIZER, "options": OPTIONS, **changed}
        return prepare(storage=storage, **given).cached  # type: ignore[arg-type]

    assert not cached()
    changes: list[dict[str, object]] = [
        {"options": EncodingOptions(200)},
        {"options": EncodingOptions(300, train_on_prompt=True)},
        {"tokenizer": byte_tokenizer(add_bos=False)},
        {"tokenizer": byte_tokenizer(specials=())},
        {"template": "bitnet-chat"},
        {"template": str(own)},
    ]
    assert [cached(**change) for change in changes] == [False] * len(changes)
    assert [cached(**change) for change in changes] == [True] * len(changes)
    own.write_text(own.read_text() + "{{ eos_token }}")
    assert not cached(template=str(own))
    data.write_text(data.read_text().replace("Say 3.", "Say 4."))
    assert not cached()


@pytest.mark.parametrize("place", [0, 20, -1, -1000])
def test_a_damaged_entry_is_no_entry(data: Path, storage: Storage, place: int) -> None:
    first = prepare(data, TOKENIZER, OPTIONS, storage=storage)
    (entry,) = storage.folder.iterdir()
    damaged = bytearray(entry.read_bytes())
    damaged[place] ^= 1
    entry.write_bytes(damaged)
    again = prepare(data, TOKENIZER, OPTIONS, storage=storage)
    assert not again.cached
    assert_same(first, again)
    assert prepare(data, TOKENIZER, OPTIONS, storage=storage).cached


def test_an_entry_of_another_version_is_no_entry(
    data: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_pack", lambda _: b"something else")
    first = prepare(data, TOKENIZER, OPTIONS, storage=storage)
    again = prepare(data, TOKENIZER, OPTIONS, storage=storage)
    assert not again.cached
    assert_same(first, again)


def test_a_cache_that_cannot_be_written_costs_only_time(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert not prepare(data, TOKENIZER, OPTIONS, storage=Storage(tmp_path / "file")).cached


def test_bad_data_are_never_cached(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"instruction": "a", "output": ""}]')
    for _ in range(2):
        with pytest.raises(BitgraphError, match="all 1 records are skipped"):
            prepare(path, TOKENIZER, OPTIONS, storage=storage)
    assert not storage.folder.exists()
