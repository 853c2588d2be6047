import json
import os
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.tensors import Ternary
from bitgraph.models.gguf import GgmlType, TensorSource, gguf_size, read_gguf, write_gguf
from gguf_bytes import (
    ARRAY,
    F32,
    FLOAT32,
    I2_S,
    STRING,
    TQ1_0,
    TQ2_0,
    UINT32,
    array,
    gguf,
    i2_s,
    pair,
    record,
    small_file,
    string,
    text,
    u32,
)

MINI = Path(__file__).parents[3] / "shared" / "models" / "mini"


@pytest.fixture
def peak():
    """The most bytes allocated since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def opened(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_gguf(path)


def one_tensor(tmp_path, dims, kind, data):
    return opened(tmp_path, gguf([], [record("t", dims, kind, 0)], data)).load("t")


def load_all(file):
    return {name: file.load(name) for name in file.tensors}


def refused(tmp_path, content, load=False):
    """The message of the error, which must be one sentence that names the file."""
    with pytest.raises(BitgraphError) as caught:
        load_all(opened(tmp_path, content)) if load else opened(tmp_path, content)
    message = str(caught.value)
    assert str(tmp_path / "model.gguf") in message
    assert "\n" not in message
    assert not message.endswith(".")
    return message


# Reading


def test_metadata_and_tensors_of_a_sound_file(tmp_path):
    content, codes = small_file()
    file = opened(tmp_path, content)
    numbers = file.metadata.pop("numbers")
    assert file.metadata == {
        "general.architecture": "bitnet-b1.58",
        "answer": 42,
        "ratio": 0.25,
        "flag": True,
        "names": ["a", "", "Ġé"],
    }
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [1, -2, 3]
    assert [(t.name, t.type, t.shape, t.nbytes) for t in file.tensors.values()] == [
        ("norm", GgmlType.F32, (3,), 12),
        ("embedding", GgmlType.F16, (2, 5), 20),
        ("matrix", GgmlType.I2_S, (2, 128), 96),
    ]
    assert file.load("norm").tolist() == [0.5, -1.0, 2.0]
    assert file.load("embedding").tolist() == np.arange(10.0).reshape(2, 5).tolist()
    matrix = file.load("matrix")
    assert matrix.scale == 1.5
    assert np.array_equal(matrix.codes(), codes)


@pytest.mark.parametrize(
    ("kind", "code", "value"),
    [
        (0, "B", 200),
        (1, "b", -100),
        (2, "H", 60000),
        (3, "h", -30000),
        (4, "I", 4_000_000_000),
        (5, "i", -2_000_000_000),
        (6, "f", 0.5),
        (7, "?", True),
        (10, "Q", 1 << 63),
        (11, "q", -(1 << 62)),
        (12, "d", 0.1),
    ],
)
def test_numbers_of_every_type(tmp_path, kind, code, value):
    packed = struct.pack(f"<{code}", value)
    pairs = [
        pair("one", kind, packed),
        array("many", kind, 3, packed * 3),
        array("no", kind, 0, b""),
    ]
    metadata = opened(tmp_path, gguf(pairs)).metadata
    assert metadata["one"] == value
    assert type(metadata["one"]) is type(value)
    assert metadata["many"].tolist() == [value] * 3
    assert metadata["no"].size == 0


@pytest.mark.parametrize("value", [1e-5, 0.1, 1e-45, 3.4028235e38, 500000.0, -0.0, np.inf])
def test_float32_is_read_as_its_shortest_decimal(tmp_path, value):
    metadata = opened(tmp_path, gguf([pair("a", FLOAT32, struct.pack("<f", value))])).metadata
    assert repr(metadata["a"]) == repr(float(value))


def test_version_2_and_another_alignment(tmp_path):
    pairs = [u32("general.alignment", 8)]
    records = [record("a", [3], F32, 0), record("b", [1], F32, 16)]
    data = struct.pack("<5f", 1, 2, 3, 0, 4)
    file = opened(tmp_path, gguf(pairs, records, data, version=2, alignment=8))
    assert file.load("a").tolist() == [1, 2, 3]
    assert file.load("b").tolist() == [4]


def test_values_are_read_only_views_of_the_file(tmp_path):
    file = opened(tmp_path, small_file()[0])
    views = [file.load("norm"), file.load("embedding"), file.load("matrix").packed]
    for name, view in zip(file.tensors, views, strict=True):
        assert not view.flags.owndata
        assert not view.flags.writeable
        start = file.tensors[name].offset
        assert view.__array_interface__["data"][0] == file._data.ctypes.data + start


def test_header_of_a_large_vocabulary_is_read_fast(tmp_path):
    tokens = [f"token{number}" for number in range(128256)]
    merges = [f"left{number} right" for number in range(280147)]
    write_gguf(tmp_path / "model.gguf", {"tokens": tokens, "merges": merges}, [])
    start = time.perf_counter()
    file = read_gguf(tmp_path / "model.gguf")
    assert time.perf_counter() - start < 2
    assert file.metadata["tokens"] == tokens
    assert file.metadata["merges"] == merges


# I2_S


def test_i2_s_byte_holds_four_quarters_first_on_top(tmp_path):
    packed = np.full(32, 0b01_01_01_01, np.uint8)
    packed[5] = 0b00_01_10_01  # weights 5, 37, 69, 101 are -1, 0, +1, 0
    data = packed.tobytes() + struct.pack("<f", 2.0) + bytes(28)
    codes = one_tensor(tmp_path, [128, 1], I2_S, data).codes()[0]
    assert codes[5] == -1
    assert codes[69] == 1
    assert np.count_nonzero(codes) == 2


def test_i2_s_rows_follow_each_other(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (6, 384))
    value = one_tensor(tmp_path, [384, 6], I2_S, i2_s(codes, 1.21885478))
    assert value.scale == np.float32(1.21885478)
    assert np.array_equal(value.codes(), codes)
    row = 4
    bytes_per_row = 384 // 4
    alone = Ternary(value.packed[row * bytes_per_row :][:bytes_per_row], 1.0, (384,))
    assert np.array_equal(alone.codes(), codes[row])


def test_i2_s_group_may_cross_rows(tmp_path):
    codes = np.random.default_rng(1).integers(-1, 2, (4, 96))
    value = one_tensor(tmp_path, [96, 4], I2_S, i2_s(codes, 1.0))
    assert np.array_equal(value.codes(), codes)


def test_bytes_after_the_scale_mean_nothing(tmp_path):
    codes = np.random.default_rng(2).integers(-1, 2, (2, 128))
    for junk in (b"\xff" * 28, b"\x7f\xc0\0\0" * 7, bytes(range(28))):
        value = one_tensor(tmp_path, [128, 2], I2_S, i2_s(codes, 3.0, junk))
        assert value.scale == 3.0
        assert np.array_equal(value.codes(), codes)


@pytest.mark.parametrize("position", [0, 1, 31, 32, 255, 300_000, 327_679])
@pytest.mark.parametrize("shift", [0, 2, 4, 6])
def test_code_three_is_found_anywhere(tmp_path, position, shift):
    packed = np.full(327_680, 0b10_01_00_10, np.uint8)
    assert one_tensor(tmp_path, [1280, 1024], I2_S, packed.tobytes() + i2_s([], 1.0)) is not None
    packed[position] |= 3 << shift
    content = gguf([], [record("t", [1280, 1024], I2_S, 0)], packed.tobytes() + i2_s([], 1.0))
    assert "2-bit code is 3" in refused(tmp_path, content, load=True)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0])
def test_scale_must_be_positive(tmp_path, scale):
    content = gguf([], [record("t", [128], I2_S, 0)], i2_s(np.zeros(128), scale))
    message = refused(tmp_path, content, load=True)
    assert "scale" in message
    assert "'t'" in message


# TQ1_0 and TQ2_0


def tq2_0_block(codes, scale):
    """256 codes -1, 0, 1 as mainline's documentation of the type describes it."""
    qs = bytearray(64)
    for weight, code in enumerate(codes):
        half, rest = divmod(weight, 128)
        field, lane = divmod(rest, 32)
        qs[half * 32 + lane] |= (int(code) + 1) << (2 * field)
    return bytes(qs) + np.float16(scale).tobytes()


def tq1_0_block(codes, scale):
    def stored(weights):
        value = 0
        for weight in weights:
            value = value * 3 + int(codes[weight]) + 1
        value *= 3 ** (5 - len(weights))
        return -(-value * 256 // 243)

    data = [stored([m + 32 * n for n in range(5)]) for m in range(32)]
    data += [stored([160 + m + 16 * n for n in range(5)]) for m in range(16)]
    data += [stored([240 + m + 4 * n for n in range(4)]) for m in range(4)]
    return bytes(data) + np.float16(scale).tobytes()


ENCODERS = {TQ1_0: tq1_0_block, TQ2_0: tq2_0_block}
both_tq = pytest.mark.parametrize("kind", ENCODERS)


def tq_tensor(kind, codes, scales):
    blocks = zip(np.asarray(codes).reshape(-1, 256), scales, strict=True)
    return b"".join(ENCODERS[kind](block, scale) for block, scale in blocks)


@both_tq
def test_tq_decodes(tmp_path, kind):
    codes = np.random.default_rng(3).integers(-1, 2, (5, 768))
    data = tq_tensor(kind, codes, [1.21875] * 15)
    value = one_tensor(tmp_path, [768, 5], kind, data)
    assert isinstance(value, Ternary)
    assert value.scale == 1.21875
    assert value.shape == (5, 768)
    assert np.array_equal(value.codes(), codes)


@both_tq
def test_tq_zero_blocks_need_no_scale(tmp_path, kind):
    codes = np.random.default_rng(4).integers(-1, 2, (3, 256))
    codes[1] = 0
    value = one_tensor(tmp_path, [256, 3], kind, tq_tensor(kind, codes, [0.5, 0.0, 0.5]))
    assert value.scale == 0.5
    assert np.array_equal(value.codes(), codes)
    nothing = tq_tensor(kind, np.ones((2, 256)), [0.0, 0.0])
    assert not one_tensor(tmp_path, [256, 2], kind, nothing).codes().any()


@both_tq
def test_tq_blocks_must_share_one_scale(tmp_path, kind):
    data = tq_tensor(kind, np.ones((2, 256)), [0.5, 0.75])
    content = gguf([], [record("t", [256, 2], kind, 0)], data)
    assert "2 different scales (0.5 to 0.75)" in refused(tmp_path, content, load=True)


@both_tq
@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_tq_scale_must_be_positive(tmp_path, kind, scale):
    content = gguf([], [record("t", [256], kind, 0)], tq_tensor(kind, np.ones(256), [scale]))
    assert "scale" in refused(tmp_path, content, load=True)


def test_tq2_0_code_three_is_an_error(tmp_path):
    data = b"\x30" + tq2_0_block(np.zeros(256), 1.0)[1:]
    content = gguf([], [record("t", [256], TQ2_0, 0)], data)
    assert "2-bit code is 3" in refused(tmp_path, content, load=True)


# The mini model


@pytest.fixture
def mini():
    if not MINI.is_dir():
        pytest.skip("needs ../shared/models/mini (not part of the repository)")
    return read_gguf(MINI / "mini-i2_s.gguf")


HUGGING_FACE = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def safetensors_bytes(path):
    """Dtype, shape and bytes of each tensor; the library has no BF16 for NumPy."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            data[slice(*(base + o for o in entry["data_offsets"]))],
        )
        for name, entry in header.items()
    }


def bf16(raw):
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def round_to_bf16(value):
    """Half to even, which for positive floats is integer arithmetic on the bits."""
    bits = int(np.float32(value).view(np.uint32))
    bits += 0x7FFF + (bits >> 16 & 1)
    return np.uint32(bits & 0xFFFF0000).view(np.float32)


def test_mini_equals_its_hugging_face_folder(mini):
    folder = safetensors_bytes(MINI / "hf" / "model.safetensors")
    compared = 0
    for layer in range(8):
        for short, long in HUGGING_FACE.items():
            ours = mini.load(f"blk.{layer}.{short}.weight")
            dtype, (quarter, width), raw = folder[f"model.layers.{layer}.{long}.weight"]
            assert dtype == "U8"
            packed = np.frombuffer(raw, np.uint8).reshape(quarter, width)
            # Packed row r holds rows r, R + r, 2R + r, 3R + r, the first in the low bits.
            theirs = np.concatenate([packed >> 2 * i & 3 for i in range(4)]).astype(int) - 1
            assert np.array_equal(ours.codes(), theirs)
            scale = bf16(folder[f"model.layers.{layer}.{long}.weight_scale"][2])[0]
            assert round_to_bf16(ours.scale) == scale
            compared += 1
    assert compared == 56


def test_mini_survives_being_written_again(mini, tmp_path):
    values = load_all(mini)
    copy = tmp_path / "copy.gguf"
    write_gguf(copy, mini.metadata, [TensorSource.of(*item) for item in values.items()])
    assert copy.stat().st_size == mini.size
    again = read_gguf(copy)
    assert again.tensors == mini.tensors
    original, written = np.frombuffer(mini.path.read_bytes(), np.uint8), again._data
    ignored = np.zeros(mini.size, bool)
    for info in mini.tensors.values():
        if info.type is GgmlType.I2_S:
            ignored[info.offset + info.nbytes - 28 : info.offset + info.nbytes] = True
            assert not written[info.offset + info.nbytes - 28 :][:28].any()
    assert original[ignored].any()
    assert np.array_equal(original[~ignored], written[~ignored])


# Writing


def values_for_writing():
    rng = np.random.default_rng(5)
    return {
        "norm": rng.standard_normal(7).astype(np.float32),
        "embedding": rng.standard_normal((9, 5)).astype(np.float16),
        "matrix": Ternary.pack(rng.integers(-1, 2, (3, 128)), 0.75),
        "slice": rng.standard_normal((6, 4)).astype(np.float32).T[::2],
    }


def test_what_is_written_is_read(tmp_path):
    values = values_for_writing()
    metadata = {
        "a.bool": False,
        "a.int": 4_000_000_000,
        "a.float": 0.5,
        "a.text": "Grüße\n",
        "a.empty": [],
        "a.strings": ["x", "", "ĠĠ"],
    }
    path = tmp_path / "model.gguf"
    sources = [TensorSource.of(name, value) for name, value in values.items()]
    write_gguf(path, metadata, sources)
    assert path.stat().st_size == gguf_size(metadata, sources)
    file = read_gguf(path)
    assert file.metadata == metadata
    for name, value in values.items():
        loaded = file.load(name)
        if isinstance(value, Ternary):
            assert loaded.scale == value.scale
            assert np.array_equal(loaded.codes(), value.codes())
        else:
            assert loaded.dtype == value.dtype
            assert np.array_equal(loaded, value)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "u8", "i8", "f8", "?"])
def test_arrays_keep_their_type(tmp_path, dtype):
    values = np.array([0, 1, 1, 0]).astype(dtype)
    write_gguf(tmp_path / "model.gguf", {"values": values}, [])
    read = read_gguf(tmp_path / "model.gguf").metadata["values"]
    assert read.dtype == values.dtype
    assert np.array_equal(read, values)


def test_tensors_are_made_one_at_a_time(tmp_path, peak):
    made = []

    def source(name):
        def load():
            made.append(name)
            return np.full(1 << 18, len(made), np.float32)

        return TensorSource(name, GgmlType.F32, (1 << 18,), load)

    sources = [source(f"t{number}") for number in range(16)]
    assert gguf_size({}, sources) > 1 << 24
    assert made == []
    write_gguf(tmp_path / "model.gguf", {}, sources)
    assert peak() < 4 << 20
    file = read_gguf(tmp_path / "model.gguf")
    assert [file.load(name)[0] for name in made] == list(range(1, 17))


def bad_source(kind, shape, value):
    return TensorSource("t", kind, shape, lambda: value)


@pytest.mark.parametrize(
    "source",
    [
        bad_source(GgmlType.F32, (4,), np.zeros(3, np.float32)),
        bad_source(GgmlType.F32, (4,), np.zeros(4, np.float64)),
        bad_source(GgmlType.F16, (4,), np.zeros(4, np.float32)),
        bad_source(GgmlType.I2_S, (128,), np.zeros(128, np.float32)),
        bad_source(GgmlType.F32, (128,), Ternary.pack(np.zeros(128), 1.0)),
        bad_source(GgmlType.TQ2_0, (256,), Ternary.pack(np.zeros(256), 1.0)),
        bad_source(GgmlType.I2_S, (1, 100), Ternary.pack(np.zeros((1, 100)), 1.0)),
        bad_source(GgmlType.I2_S, (2, 128), Ternary(np.zeros(32, np.uint8), 1.0, (2, 128))),
    ],
)
def test_a_value_that_is_not_as_announced_leaves_no_file(tmp_path, source):
    good = TensorSource.of("good", np.zeros(1000, np.float32))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"what stood there")
    with pytest.raises(BitgraphError, match="'t'"):
        write_gguf(path, {}, [good, source])
    assert path.read_bytes() == b"what stood there"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_integers_must_fit(tmp_path, number):
    with pytest.raises(BitgraphError, match="32 bits"):
        write_gguf(tmp_path / "model.gguf", {"n": number}, [])


# Damaged files


def test_every_truncation_is_refused(tmp_path):
    content, _ = small_file()
    for length in range(len(content)):
        refused(tmp_path, content[:length])


def test_a_pipe_a_folder_and_nothing(tmp_path):
    with pytest.raises(BitgraphError, match="does not exist"):
        read_gguf(tmp_path / "missing.gguf")
    with pytest.raises(BitgraphError, match="is a folder"):
        read_gguf(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BitgraphError, match="not a regular file"):
        read_gguf(tmp_path / "pipe")


def test_there_is_no_such_tensor(tmp_path):
    file = opened(tmp_path, small_file()[0])
    with pytest.raises(BitgraphError, match="no tensor 'other'"):
        file.load("other")


HUGE = (1 << 64) - 1
T = record("t", [4], F32, 0)
DATA = bytes(64)

BAD_FILES = {
    "empty": (b"", "empty"),
    "another format": (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
    "magic in lower case": (gguf(magic=b"gguf"), "not a GGUF file"),
    "version 1": (gguf(version=1), "version 1 is not supported"),
    "version 4": (gguf(version=4), "version 4 is not supported"),
    "big-endian": (gguf(version=3 << 24), "big-endian"),
    "key count": (gguf([u32("a", 1)], pair_count=HUGE), "metadata values it announces"),
    "key count by one": (gguf([u32("a", 1)], pair_count=2), "metadata"),
    "tensor count": (gguf([], [T], DATA, tensor_count=HUGE), "tensors it announces"),
    "tensor count by one": (gguf([], [T], DATA, tensor_count=2), "tensor"),
    "key length": (gguf([struct.pack("<Q", HUGE) + bytes(64)]), "metadata key 0"),
    "key length beyond the file": (gguf([struct.pack("<Q", 60000) + bytes(64)]), "metadata key 0"),
    "empty key": (gguf([u32("", 1)]), "metadata key 0 has 0 bytes"),
    "long key": (gguf([u32("k" * 65536, 1)]), "65536 bytes"),
    "key not text": (gguf([u32(b"\xff\xfe", 1)]), "metadata key 0 is not UTF-8"),
    "key twice": (gguf([u32("a", 1), u32("a", 1)]), "'a' occurs twice"),
    "value type": (gguf([pair("a", 13, bytes(16))]), "unknown type 13"),
    "value not text": (gguf([text("a", b"\xc3")]), "'a' is not UTF-8"),
    "value length": (gguf([pair("a", STRING, struct.pack("<Q", HUGE))]), "'a'"),
    "value length by the padding": (
        gguf([pair("a", STRING, struct.pack("<Q", 100) + b"text")]),
        "ends inside metadata value 'a'",
    ),
    "boolean": (gguf([pair("a", 7, b"\x02")]), "boolean that is not 0 or 1"),
    "booleans": (gguf([array("a", 7, 3, b"\0\1\xff")]), "boolean that is not 0 or 1"),
    "array type": (gguf([array("a", 99, 1, bytes(16))]), "unknown type 99"),
    "array of arrays": (gguf([array("a", ARRAY, 1, bytes(32))]), "array of arrays"),
    "array of numbers": (gguf([array("a", UINT32, HUGE, bytes(64))]), "ends inside"),
    "array of numbers overflow": (gguf([array("a", 10, 1 << 61, bytes(64))]), "ends inside"),
    "array of strings": (gguf([array("a", STRING, 1 << 60, bytes(64))]), "ends inside"),
    "array of strings by one": (
        gguf([array("a", STRING, 3, string("x" * 20) * 2)], alignment=1),
        "ends inside metadata value 'a'[2]",
    ),
    "string of an array": (
        gguf([array("a", STRING, 2, string("x") + struct.pack("<Q", HUGE) + bytes(64))]),
        "'a'[1]",
    ),
    "array item not text": (
        gguf([array("a", STRING, 2, string("x") + string(b"\x80"))]),
        "'a'[1] is not UTF-8",
    ),
    "tensor name not text": (gguf([], [record(b"\xff", [4], F32, 0)], DATA), "not UTF-8"),
    "tensor name empty": (gguf([], [record("", [4], F32, 0)], DATA), "tensor name"),
    "tensor name long": (gguf([], [record("n" * 65, [4], F32, 0)], DATA), "65 bytes"),
    "tensor twice": (gguf([], [T, record("t", [4], F32, 32)], DATA), "'t' occurs twice"),
    "no dimensions": (gguf([], [record("t", [], F32, 0)], bytes(64)), "0 dimensions"),
    "five dimensions": (gguf([], [record("t", [1] * 5, F32, 0)], DATA), "5 dimensions"),
    "many dimensions": (
        gguf([], [string("t") + struct.pack("<I", 0xFFFFFFFF)], DATA),
        "4294967295 dimensions",
    ),
    "dimension 0": (gguf([], [record("t", [4, 0], F32, 0)], DATA), "empty shape"),
    "dimension beyond the file": (gguf([], [record("t", [1 << 40], F32, 0)], DATA), "data of"),
    "dimensions overflow to 0": (
        gguf([], [record("t", [1 << 32, 1 << 32], F32, 0)], DATA),
        "data of tensor 't'",
    ),
    "dimensions overflow to 4": (
        gguf([], [record("t", [(1 << 62) + 1, 4], F32, 0)], DATA),
        "data of tensor 't'",
    ),
    "I2_S width": (gguf([], [record("t", [130], I2_S, 0)], DATA), "multiple of 128"),
    "I2_S without its scale": (gguf([], [record("t", [128], I2_S, 0)], bytes(63)), "data of"),
    "TQ width": (gguf([], [record("t", [128, 2], TQ1_0, 0)], bytes(256)), "multiple of 256"),
    "offset alignment": (gguf([], [record("t", [4], F32, 8)], DATA), "not a multiple of 32"),
    "offset beyond the file": (gguf([], [record("t", [4], F32, 64)], DATA), "data of tensor 't'"),
    "offset huge": (gguf([], [record("t", [4], F32, HUGE - 31)], DATA), "data of tensor 't'"),
    "overlap": (
        gguf([], [record("a", [9], F32, 0), record("b", [1], F32, 32)], DATA),
        "'a' and 'b' overlap",
    ),
    "same place": (
        gguf([], [record("a", [1], F32, 32), record("b", [1], F32, 32)], DATA),
        "'a' and 'b' overlap",
    ),
    "alignment 0": (gguf([u32("general.alignment", 0)], [T], DATA), "general.alignment is 0"),
    "alignment 24": (gguf([u32("general.alignment", 24)], [T], DATA), "general.alignment is 24"),
    "alignment 4": (gguf([u32("general.alignment", 4)], [T], DATA), "general.alignment is 4"),
    "alignment huge": (gguf([u32("general.alignment", 1 << 31)], [T], DATA), "data of tensor"),
    "alignment as text": (gguf([text("general.alignment", "32")], [T], DATA), "general.alignment"),
    "alignment true": (gguf([pair("general.alignment", 7, b"\1")], [T], DATA), "alignment is True"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_header_is_refused_without_allocating(tmp_path, peak, case):
    content, expected = BAD_FILES[case]
    assert expected in refused(tmp_path, content)
    assert peak() < 2_000_000


@pytest.mark.parametrize(
    ("kind", "name"),
    [(38, "TL1"), (39, "TL2"), (12, "Q4_K"), (14, "Q6_K"), (30, "BF16"), (37, "I8_S"), (77, "77")],
)
def test_other_tensor_types_are_refused_by_name(tmp_path, kind, name):
    content = gguf([], [record("blk.0.attn_q.weight", [256], kind, 0)], bytes(1024))
    message = refused(tmp_path, content)
    assert f"unsupported tensor type {name} " in message
    assert "'blk.0.attn_q.weight'" in message


def test_scalar_types_of_the_header_do_not_leak_numpy(tmp_path):
    metadata = opened(
        tmp_path, gguf([u32("a", 7), pair("b", FLOAT32, struct.pack("<f", 2))])
    ).metadata
    assert [type(value) for value in metadata.values()] == [int, float]
