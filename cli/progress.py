"""A progress bar for what comes one by one."""

from collections.abc import Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def taken(items: Iterator[T], count: int, name: str) -> list[T]:
    """All of them, with a progress bar on a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return list(track(items, name, count, console=console, transient=True, disable=hidden))
