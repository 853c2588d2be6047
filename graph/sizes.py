"""Numbers of bytes as people write them: ``64MiB``, ``1.5 GiB``."""

import math
import re

from .errors import BitgraphError

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes of a text such as 64MiB, 1.5 GiB or 2GB; a number alone counts bytes.

    Raises:
        BitgraphError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    units = {unit.lower(): size for unit, size in (_UNITS | _DECIMAL).items()}
    unit = units.get((match[2] or "B").lower()) if match else None
    if match is None or unit is None or len(match[1]) > 15:
        raise BitgraphError(f"'{text}' is not a size in bytes; write one as 64MiB or 6GiB")
    return int(float(match[1]) * unit)


def binary_size(size: int) -> str:
    """A number of bytes for people: 1.5 GiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"


def enough(size: int) -> str:
    """A size to ask for, rounded up so that `parse_size` of it is never less: 1.94GiB."""
    unit = max(
        (u for u, step in _UNITS.items() if step <= size), key=_UNITS.__getitem__, default="B"
    )
    return f"{math.ceil(size / _UNITS[unit] * 100) / 100:g}{unit}"
