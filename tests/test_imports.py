"""Imports point one way: cli -> models, backends -> passes -> graph."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bitgraph
import pytest

ROOT = Path(bitgraph.__file__).parent

MAY_IMPORT = {
    "graph": {"graph"},
    "passes": {"passes", "graph"},
    "backends": {"backends", "passes", "graph", "shaders"},
    "models": {"models", "passes", "graph"},
    "cli": {"cli", "models", "backends", "passes", "graph"},
    "shaders": set[str](),
}
"""Packages, and which of them each may import; models and backends do not know each other."""

DEVICE = {"vulkan", "cffi", "_cffi_backend"}
"""What only backends/vulkan may import."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports, relative ones resolved, type-checking ones included."""
    here = ("bitgraph", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *(node.module or "").split("."))).strip(".")
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> list[tuple[Path, str]]:
    return [
        (path, name)
        for path in modules(package)
        for name in imported(path, ast.parse(path.read_text()))
    ]


def test_every_package_has_a_rule() -> None:
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert folders <= set(MAY_IMPORT)
    assert folders >= {"graph", "passes", "backends", "models", "cli"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    own = [(path, name) for path, name in imports_of(package) if name.startswith("bitgraph.")]
    assert own or len(modules(package)) < 2
    for path, name in own:
        target = name.split(".")[1]
        is_folder = (ROOT / target).is_dir()  # __version__ is not one
        assert not is_folder or target in MAY_IMPORT[package], f"{path} imports {name}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_inside_the_project_are_relative(package: str) -> None:
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            assert not any(name.split(".")[0] == "bitgraph" for name in names), path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_only_the_vulkan_backend_imports_vulkan(package: str) -> None:
    for path, name in imports_of(package):
        if name.split(".")[0] in DEVICE or "backends.vulkan" in name:
            allowed = package == "cli" or "vulkan" in path.relative_to(ROOT).parts
            assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize(
    "module", ["graph.verify", "passes.pipeline", "backends.numpy.backend", "models.bitnet.forward"]
)
def test_importing_loads_no_device_library(module: str) -> None:
    code = f"import sys, bitgraph.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "numpy" in loaded
    assert not loaded & (DEVICE | {"torch", "click", "rich"})


def test_a_wrong_import_would_be_seen() -> None:
    path = ROOT / "graph" / "ops" / "made_up.py"
    text = "from ...backends.numpy import backend\nfrom .. import ir\nimport vulkan as vk\n"
    text += (
        "def f():\n    from ....other import x\nfrom . import draws\nfrom ...graph.ir import Node\n"
    )
    assert list(imported(path, ast.parse(text))) == [
        "bitgraph.backends.numpy.backend",
        "bitgraph.graph.ir",
        "vulkan",
        "bitgraph.graph.ops.draws",
        "bitgraph.graph.ir.Node",
        "other.x",
    ]
