"""GGUF files put together byte by byte, so that any field can be wrong."""

import struct

import numpy as np

F32, F16, TQ1_0, TQ2_0, I2_S = 0, 1, 34, 35, 36
UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, payload):
    """A key/value pair; `payload` is the value's bytes."""
    return string(key) + struct.pack("<I", kind) + payload


def u32(key, value):
    return pair(key, UINT32, struct.pack("<I", value))


def text(key, value):
    return pair(key, STRING, string(value))


def array(key, kind, count, payload):
    return pair(key, ARRAY, struct.pack("<IQ", kind, count) + payload)


def record(name, dims, kind, offset):
    """A tensor record; `dims` as in the file, the row length first."""
    head = string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return head + struct.pack("<IQ", kind, offset)


def gguf(
    pairs=(),
    records=(),
    data=b"",
    *,
    magic=b"GGUF",
    version=3,
    pair_count=None,
    tensor_count=None,
    alignment=32,
):
    tensor_count = len(records) if tensor_count is None else tensor_count
    pair_count = len(pairs) if pair_count is None else pair_count
    head = magic + struct.pack("<IQQ", version, tensor_count, pair_count)
    head += b"".join(pairs) + b"".join(records)
    return head + bytes(-len(head) % alignment) + data


def i2_s(codes, scale, trailing=bytes(28)):
    """An I2_S tensor of codes -1, 0, 1, weight by weight as bitnet.cpp documents the layout."""
    flat = np.asarray(codes).reshape(-1)
    packed = bytearray(flat.size // 4)
    for index, code in enumerate(flat):
        group, place = divmod(index, 128)
        quarter, byte = divmod(place, 32)
        packed[group * 32 + byte] |= (int(code) + 1) << (6 - 2 * quarter)
    return bytes(packed) + struct.pack("<f", scale) + trailing


def small_file():
    """A sound file with one tensor of each kind: F32 [3], F16 [2, 5], I2_S [2, 128]."""
    codes = np.arange(256).reshape(2, 128) % 3 - 1
    data = struct.pack("<3f", 0.5, -1.0, 2.0).ljust(32, b"\0")
    data += np.arange(10, dtype="<f2").tobytes().ljust(32, b"\0")
    data += i2_s(codes, 1.5, trailing=b"\xee" * 28)
    pairs = [
        text("general.architecture", "bitnet-b1.58"),
        u32("answer", 42),
        pair("ratio", FLOAT32, struct.pack("<f", 0.25)),
        pair("flag", BOOL, b"\x01"),
        array("names", STRING, 3, string("a") + string("") + string("Ġé")),
        array("numbers", 5, 3, struct.pack("<3i", 1, -2, 3)),
    ]
    records = [
        record("norm", [3], F32, 0),
        record("embedding", [5, 2], F16, 32),
        record("matrix", [128, 2], I2_S, 64),
    ]
    return gguf(pairs, records, data), codes
