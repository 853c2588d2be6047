"""SPIR-V that is shipped for kernels that the packaged compiler cannot compile."""

import shutil
from pathlib import Path

import pytest
from bitgraph.backends.vulkan.compiler import compile_shaders
from bitgraph.backends.vulkan.device import SHADERS
from bitgraph.backends.vulkan.prebuilt import FOLDER, build, is_prebuilt, read_prebuilt
from bitgraph.backends.vulkan.spirv import reflect
from bitgraph.graph.errors import BitgraphError

NAMES = sorted(path.stem for path in SHADERS.glob("*.comp") if is_prebuilt(path.read_text()))


@pytest.fixture
def shaders(tmp_path: Path) -> Path:
    folder = tmp_path / "shaders"
    shutil.copytree(SHADERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_all_are_shipped() -> None:
    shipped = sorted(path.stem for path in (SHADERS / FOLDER).glob("*.spv"))
    assert NAMES
    assert shipped == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_of_the_source(name: str) -> None:
    path = SHADERS / f"{name}.comp"
    code = compile_shaders({name: path}, [SHADERS])[name]
    assert code == read_prebuilt(name, path)
    assert reflect(code, name).bindings


def test_a_changed_source_is_refused(shaders: Path) -> None:
    path = shaders / f"{NAMES[0]}.comp"
    path.write_text(path.read_text() + "// more\n")
    with pytest.raises(BitgraphError, match="has changed since it was compiled; run: python -m"):
        compile_shaders({NAMES[0]: path}, [shaders])


def test_nothing_shipped(shaders: Path) -> None:
    shutil.rmtree(shaders / FOLDER)
    with pytest.raises(BitgraphError, match=r"no SPIR-V for .*\.comp in .*prebuilt; run: python"):
        read_prebuilt(NAMES[0], shaders / f"{NAMES[0]}.comp")


def test_compiling_ahead(shaders: Path) -> None:
    pytest.importorskip("slangpy", reason="needs slangpy, for its glslang")
    path = shaders / f"{NAMES[0]}.comp"
    path.write_text(path.read_text() + "// more\n")
    assert build(shaders) == NAMES
    assert read_prebuilt(NAMES[0], path)[:4] == b"\x03\x02\x23\x07"


def test_slangpy_is_needed(shaders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BitgraphError, match="pip install slangpy"):
        build(shaders)
