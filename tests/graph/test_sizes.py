"""Numbers of bytes as text."""

import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.sizes import binary_size, enough, parse_size
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("6GiB", 6 << 30),
        ("1.5 GiB", 3 << 29),
        (" 2 kib ", 2048),
        ("1TiB", 1 << 40),
        ("2GB", 2_000_000_000),
        ("12", 12),
        ("12B", 12),
        ("0", 0),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1MiB", "1e3MiB", "6GiB7", "6 Gi", "1" * 16, "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BitgraphError, match="is not a size in bytes; write one as 64MiB or 6GiB"):
        parse_size(text)


@given(st.integers(0, 1 << 45))
def test_what_is_called_enough_is_enough_and_hardly_more(size: int) -> None:
    asked = parse_size(enough(size))
    assert size <= asked <= size * 1.011 + 1


def test_sizes_for_people() -> None:
    assert [binary_size(n) for n in (5, 1536, 3 << 29)] == ["5 B", "1.5 KiB", "1.5 GiB"]
