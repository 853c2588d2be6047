"""SPIR-V that is shipped: kernels in a language that the packaged compiler does not know.

GL_NV_cooperative_matrix2 needs glslang 15 or later, which PyPI has only inside the `slangpy` wheel,
of 90 MB. So the few kernels written in it are compiled ahead, with

    pip install slangpy
    python -m bitgraph.backends.vulkan.prebuilt

which writes `shaders/prebuilt/NAME.spv` and, in `sources.json`, the digest of each source. A kernel
whose source has changed since is refused.
"""

import ctypes
import hashlib
import importlib.util
import json
from pathlib import Path

from ...graph.errors import BitgraphError

FOLDER = "prebuilt"
_MARK = "GL_NV_cooperative_matrix2"
_DIGESTS = "sources.json"
_COMMAND = "python -m bitgraph.backends.vulkan.prebuilt"


def is_prebuilt(text: str) -> bool:
    """Whether a shader is one of those that are compiled ahead."""
    return _MARK in text


def read_prebuilt(name: str, path: Path) -> bytes:
    """The SPIR-V that is shipped for a shader.

    Raises:
        BitgraphError: there is none, or the shader has changed since it was made.
    """
    folder = path.parent / FOLDER
    try:
        known = json.loads((folder / _DIGESTS).read_text()).get(name)
        code = (folder / f"{name}.spv").read_bytes()
    except (OSError, ValueError) as error:
        raise BitgraphError(f"no SPIR-V for {path.name} in {folder}; run: {_COMMAND}") from error
    if known != _digest(path):
        raise BitgraphError(f"{path.name} has changed since it was compiled; run: {_COMMAND}")
    return code


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(shaders: Path) -> list[str]:
    """Compile all kernels of a folder that are compiled ahead; returns their names.

    Raises:
        BitgraphError: slangpy is not installed, or a shader does not compile.
    """
    folder = shaders / FOLDER
    folder.mkdir(exist_ok=True)
    digests: dict[str, str] = {}
    for path in sorted(shaders.glob("*.comp")):
        text = path.read_text()
        if is_prebuilt(text):
            (folder / f"{path.stem}.spv").write_bytes(_compile(_library(), path.name, text))
            digests[path.stem] = _digest(path)
    (folder / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")
    return list(digests)


_Output = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_COMPUTE, _TO_SPIRV = 6, 0


class _Request(ctypes.Structure):
    """What `glslang_compile_1_2` of Slang's glslang takes (slang-glslang.h)."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("source_path", ctypes.c_char_p),
        ("begin", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("diagnostics", _Output),
        ("diagnostics_data", ctypes.c_void_p),
        ("output", _Output),
        ("output_data", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("action", ctypes.c_uint),
        ("optimization", ctypes.c_uint),
        ("debug", ctypes.c_uint),
        ("target", ctypes.c_char_p),
        ("spirv_version", ctypes.c_int * 3),
        ("entry_point", ctypes.c_char_p),
    )


def _library() -> ctypes.CDLL:
    package = importlib.util.find_spec("slangpy")
    folders = [] if package is None else package.submodule_search_locations or []
    found = [file for folder in folders for file in Path(folder).glob("libslang-glslang*.so")]
    if not found:
        raise BitgraphError("slangpy's glslang was not found; run: pip install slangpy")
    return ctypes.CDLL(str(found[0]))


def _compile(library: ctypes.CDLL, name: str, text: str) -> bytes:
    source = ctypes.create_string_buffer(text.encode())
    begin = ctypes.addressof(source)
    messages: list[bytes] = []
    code: list[bytes] = []
    request = _Request(
        size=ctypes.sizeof(_Request),
        source_path=name.encode(),
        begin=begin,
        end=begin + len(source) - 1,
        diagnostics=_Output(lambda data, size, _: messages.append(ctypes.string_at(data, size))),
        output=_Output(lambda data, size, _: code.append(ctypes.string_at(data, size))),
        stage=_COMPUTE,
        action=_TO_SPIRV,
        spirv_version=(ctypes.c_int * 3)(1, 6, 0),
        entry_point=b"main",
    )
    if library.glslang_compile_1_2(ctypes.byref(request)) or not code:
        explained = b"".join(messages).decode(errors="replace").strip()
        raise BitgraphError(f"{name} does not compile: {explained}")
    return b"".join(code)


if __name__ == "__main__":
    print(*build(Path(__file__).parents[2] / "shaders"), sep="\n")
