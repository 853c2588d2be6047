"""Reading JSON, and writing so that a crash, a full disk or Ctrl-C never leaves half a file."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..graph.errors import BitgraphError

PARTIAL = ".partial"
"""End of the names of what is being written."""


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` only once it is complete and on disk.

    Written beside `path`, fsynced, renamed. On any exception the partial file is removed and
    what stood at `path` is untouched.

    Raises:
        BitgraphError: the folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, delete=False
        ) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(
            f"{path} could not be written ({reason}); free some space or choose another place"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(text.encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        BitgraphError: it cannot be made or be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK | os.X_OK) else "it is read-only"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise BitgraphError(f"the folder {path} cannot be used ({reason}); choose another place")


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed had begun to write into a folder.

    Nobody else may write into it at the time.
    """
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, fewer if it is shorter.

    Raises:
        BitgraphError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} could not be read ({reason}); check the path") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        BitgraphError: the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BitgraphError(f"{path} is missing; copy the whole folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} could not be read ({reason}); check the path") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BitgraphError(f"{path} is not valid JSON ({reason}); restore the file") from None
    if not isinstance(value, dict):
        raise BitgraphError(f"{path} does not hold a JSON object; restore the file")
    return value
