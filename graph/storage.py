"""Files kept between runs to save time: compiled shaders, pipelines, tokenized data.

Nothing in them is trusted: an entry carries a digest over its key and contents, and one that does
not match is as good as absent. A folder that cannot be written only costs the time.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"bitgraph1\n"
_DIGEST = 32


def cache_folder() -> Path:
    """BITGRAPH_CACHE, else `bitgraph` in the user's cache folder (XDG base directories)."""
    chosen = os.environ.get("BITGRAPH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bitgraph"


@dataclass(frozen=True)
class Storage:
    """Entries in a folder: magic, SHA-256 of key and contents, contents."""

    folder: Path

    def path(self, name: str, key: str) -> Path:
        """Where an entry is kept: `name` is for people, `key` tells entries apart."""
        return self.folder / f"{name[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"

    def read(self, name: str, key: str) -> bytes | None:
        """The contents of a sound entry, or None."""
        try:
            data = self.path(name, key).read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST
        contents = data[start:]
        sound = data[:start] == _MAGIC + _digest(key, contents)
        return contents if sound else None

    def write(self, name: str, key: str, contents: bytes) -> None:
        """Put an entry in place in one step, so that a reader never sees half of it."""
        path = self.path(name, key)
        temporary: Path | None = None
        with suppress(OSError):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                    temporary = Path(file.name)
                    file.write(_MAGIC + _digest(key, contents) + contents)
                temporary.replace(path)
            finally:
                if temporary is not None:
                    temporary.unlink(missing_ok=True)


def _digest(key: str, contents: bytes) -> bytes:
    return hashlib.sha256(len(key).to_bytes(8, "little") + key.encode() + contents).digest()
