"""The GGUF container, with the ternary tensor types that other readers refuse."""

from .header import TensorInfo
from .reader import GgufFile, read_gguf
from .types import GgmlType, MetadataValue
from .writer import TensorSource, gguf_size, write_gguf

__all__ = [
    "GgmlType",
    "GgufFile",
    "MetadataValue",
    "TensorInfo",
    "TensorSource",
    "gguf_size",
    "read_gguf",
    "write_gguf",
]
