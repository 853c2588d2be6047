"""What all tests share: hypothesis without a deadline, a CPU that speaks Vulkan, real files."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bitgraph.graph.errors import BitgraphError
from hypothesis import settings

if TYPE_CHECKING:
    from bitgraph.backends.vulkan.info import DeviceInfo

NEEDED = "apt install libvulkan1 mesa-vulkan-drivers vulkan-validationlayers"
SHARED = Path(__file__).parents[2] / "shared"

# The first example of a test loads code and compiles graphs; its time says nothing.
settings.register_profile("bitgraph", deadline=None)
settings.load_profile("bitgraph")


@pytest.fixture(scope="session")
def lavapipe() -> "DeviceInfo":
    """The CPU device, with a validation layer to watch over it."""
    try:
        from bitgraph.backends.vulkan.instance import Instance
        from bitgraph.backends.vulkan.query import select_device

        info = select_device("lavapipe")
        Instance(validation=True).close()
    except BitgraphError as error:
        pytest.skip(f"needs lavapipe and the validation layers ({error}): {NEEDED}")
    return info


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, data and reference results, which is no part of the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (not part of the repository)")
    return SHARED


@pytest.fixture(scope="session")
def mini_path(shared: Path) -> Path:
    """A trained BitNet of 24.6 M parameters, as GGUF."""
    path = shared / "models" / "mini" / "mini-i2_s.gguf"
    if not path.is_file():
        pytest.skip("needs ../shared/models/mini/mini-i2_s.gguf (not part of the repository)")
    return path
