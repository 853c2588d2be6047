"""A real Vulkan device for tests: lavapipe, the CPU driver, with the validation layer on.

Every test's device must end without a message of the layer, leaks included.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from bitgraph.backends.vulkan.device import Device
    from bitgraph.backends.vulkan.info import DeviceInfo

SHADERS = Path(__file__).parent / "shaders"

OpenDevice: TypeAlias = "Callable[..., Device]"


@pytest.fixture(scope="session")
def open_watched(lavapipe: "DeviceInfo", tmp_path_factory: pytest.TempPathFactory) -> OpenDevice:
    """Opens a validated device on a cache shared by the session, or `cache=` of the test's own."""
    from bitgraph.backends.vulkan.device import Device

    shared = tmp_path_factory.mktemp("cache")

    def open_device(cache: Path = shared) -> "Device":
        return Device.open(lavapipe, synchronization=True, shaders=[SHADERS], cache=cache)

    return open_device


@pytest.fixture(scope="module")
def device(open_watched: OpenDevice) -> "Iterator[Device]":
    """A device for all tests of a module."""
    with open_watched() as device:
        yield device
    assert device.messages == []


@pytest.fixture(autouse=True)
def _silent(request: pytest.FixtureRequest) -> Iterator[None]:
    """Blame the test that caused a message of the validation layer."""
    yield
    if "device" in request.fixturenames:
        opened: Device = request.getfixturevalue("device")
        assert opened.messages == []
