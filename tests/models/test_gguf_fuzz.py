"""Damage a small sound file: it is refused in one sentence, or what loads is sound."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.tensors import Ternary
from bitgraph.models.gguf import TensorSource, read_gguf, write_gguf
from gguf_bytes import I2_S, TQ1_0, TQ2_0, array, gguf, record, small_file, string
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONTENT, CODES = small_file()
IGNORED = range(len(CONTENT) - 28, len(CONTENT))

fuzz = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def outcome(folder, content):
    """The file's metadata and values, or None where it was refused properly."""
    path = folder / "fuzzed.gguf"
    path.write_bytes(content)
    try:
        file = read_gguf(path)
        values = {name: file.load(name) for name in file.tensors}
    except BitgraphError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert "\n" not in message
        return None
    return file.metadata, values


def check_sound(folder, metadata, values):
    """What was loaded can be used and, where the writer knows its types, written and read."""
    for value in values.values():
        if isinstance(value, Ternary):
            assert set(np.unique(value.codes())) <= {-1, 0, 1}
            assert 0 < value.scale < np.inf
        else:
            assert value.size > 0
    copy = folder / "copy.gguf"
    plain = {key: value for key, value in metadata.items() if isinstance(value, str | list | bool)}
    plain.pop("general.alignment", None)
    write_gguf(copy, plain, [TensorSource.of(*item) for item in values.items()])
    again = read_gguf(copy)
    assert again.metadata == plain
    for name, value in values.items():
        loaded = again.load(name)
        if isinstance(value, Ternary):
            assert loaded.shape == value.shape
            assert np.array_equal(loaded.codes(), value.codes())
        else:
            assert loaded.tobytes() == value.tobytes()


@fuzz
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), max_size=4))
def test_changed_bytes(folder, changes):
    content = bytearray(CONTENT)
    for position, byte in changes:
        content[position] = byte
    result = outcome(folder, bytes(content))
    if result is not None:
        check_sound(folder, *result)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_each_byte_of_the_header_changed_alone(folder, flip):
    survivors = 0
    for position in range(data_start(folder)):
        content = bytearray(CONTENT)
        content[position] ^= flip
        result = outcome(folder, bytes(content))
        if result is not None:
            survivors += 1
            check_sound(folder, *result)
    assert survivors > 0  # a changed letter of a name is another name


def data_start(folder):
    path = folder / "sound.gguf"
    path.write_bytes(CONTENT)
    return min(info.offset for info in read_gguf(path).tensors.values())


@fuzz
@given(st.integers(0, len(CONTENT) - 1), st.binary(max_size=64))
def test_removed_and_inserted_bytes(folder, position, inserted):
    assert outcome(folder, CONTENT[:position]) is None
    for tail in (CONTENT[position:], CONTENT[position + len(inserted) :]):
        result = outcome(folder, CONTENT[:position] + inserted + tail)
        if result is not None:
            check_sound(folder, *result)


@fuzz
@given(st.binary(min_size=28, max_size=28))
def test_ignored_bytes_change_nothing(folder, junk):
    result = outcome(folder, CONTENT[: IGNORED.start] + junk)
    assert result is not None
    assert np.array_equal(result[1]["matrix"].codes(), CODES)
    assert result[1]["matrix"].scale == 1.5


@fuzz
@given(st.binary(max_size=200))
def test_anything_after_the_magic(folder, content):
    result = outcome(folder, b"GGUF" + content)
    if result is not None:
        check_sound(folder, *result)


@fuzz
@given(st.binary(max_size=300), st.integers(0, 4))
def test_any_metadata_and_records(folder, content, count):
    head = b"GGUF" + (3).to_bytes(4, "little")
    counts = count.to_bytes(8, "little") * 2
    result = outcome(folder, head + counts + content)
    if result is not None:
        assert len(result[0]) == len(result[1]) == count


@fuzz
@given(st.sampled_from([(TQ1_0, 54), (TQ2_0, 66), (I2_S, 96)]), st.data())
def test_any_ternary_bytes(folder, kind, data):
    number, size = kind
    content = data.draw(st.binary(min_size=size, max_size=size))
    result = outcome(folder, gguf([], [record("t", [256], number, 0)], content))
    if result is not None:
        check_sound(folder, *result)


@fuzz
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=20))
def test_any_strings_come_back(folder, strings):
    path = folder / "strings.gguf"
    write_gguf(path, {"strings": strings}, [])
    assert read_gguf(path).metadata["strings"] == strings
    by_hand = gguf([array("strings", 8, len(strings), b"".join(map(string, strings)))])
    assert path.read_bytes() == by_hand
