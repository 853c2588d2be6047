"""What all tests share: hypothesis without a deadline, and real files from beside the project."""

from pathlib import Path

import pytest
from hypothesis import settings

SHARED = Path(__file__).parents[2] / "shared"

# The first example of a test loads code and compiles graphs; its time says nothing.
settings.register_profile("bitgraph", deadline=None)
settings.load_profile("bitgraph")


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
