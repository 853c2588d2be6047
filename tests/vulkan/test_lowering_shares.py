"""How the tiles of products on matrix units are shared out."""

from dataclasses import replace

import pytest
from bitgraph.backends.vulkan.limits import KNOWN_LIMITS, Limits
from bitgraph.backends.vulkan.lowering.shares import Share, share_for
from hypothesis import given
from hypothesis import strategies as st

H100 = KNOWN_LIMITS["h100"]
PLACES = 2 * H100.cores


def found(rows: int, columns: int, steps: int, limits: Limits = H100) -> Share:
    share = share_for(rows, columns, steps, limits)
    assert share is not None
    return share


def waves(share: Share) -> float:
    """Waves of work that take a workgroup's time, a shared tile's part as its share of one."""
    return -(-share.whole // PLACES) + -(-share.units // PLACES) / share.parts


def test_last_wave_is_shared() -> None:
    """2,048 x 2,560 are 320 tiles: two waves, the second of which would be a fifth full."""
    share = found(2048, 2560, 432)
    assert (share.tile.rows, share.whole, share.rest) == (128, 264, 56)
    assert waves(share) <= 1.25


def test_few_tiles_are_all_shared() -> None:
    share = found(512, 2560, 432)
    assert share.whole == 0
    assert 2 * share.units > PLACES


def test_full_waves_stay_whole() -> None:
    share = found(128 * 66, 128 * 8, 40)
    assert (share.tile.rows, share.whole, share.rest) == (128, 528, 0)


@pytest.mark.parametrize("limits", [replace(H100, cores=0), Limits(shared_memory=49152)])
def test_unknown_devices_share_nothing(limits: Limits) -> None:
    assert found(2048, 2560, 432, limits).rest == 0


def test_no_tile_fits() -> None:
    assert share_for(2048, 2560, 432, replace(H100, shared_memory=8192)) is None


@given(
    st.integers(9, 5000),
    st.integers(1, 60).map(lambda n: 128 * n),
    st.integers(1, 500),
    st.integers(1, 200),
)
def test_every_tile_is_computed_once(rows: int, columns: int, steps: int, cores: int) -> None:
    share = found(rows, columns, steps, replace(H100, cores=cores))
    assert share.whole + share.rest == share.tile.count(rows, columns)
    assert share.parts <= max(1, steps // 4)
    assert (share.parts > 1) == (share.rest > 0)
