"""The formats that a graph can be written in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..binary import pack_graph
from ..types import GraphError
from .dot import write_dot
from .graphml import write_graphml
from .html import write_html
from .jsonform import write_json
from .memory import write_memory_svg
from .svg import write_svg
from .view import View


def export(view: View, name: str, opened: Sequence[str] = ()) -> bytes:
    """A graph in one of `FORMATS`.

    The text and the svg of a planned graph show its schedule and its memory over time.

    Args:
        view: what to write.
        name: of the format.
        opened: scopes that svg and html show opened.

    Raises:
        GraphError: the format has no scopes to open, there is no such scope, or msgpack is asked
            to hold a schedule.
    """
    if name == "html":
        return write_html(view, opened)
    if name == "svg" and view.execution is None:
        return write_svg(view, opened)
    if opened:
        raise GraphError("only pictures of a graph, svg and html, have scopes to open")
    return _WRITERS[name](view)


def _write_text(view: View) -> bytes:
    return (str(view.graph) if view.execution is None else view.execution.text).encode()


def _write_msgpack(view: View) -> bytes:
    if view.execution is not None:
        raise GraphError(
            "msgpack holds graphs, not schedules; choose json or text, or another stage"
        )
    return pack_graph(view.graph)


_WRITERS: Final[Mapping[str, Callable[[View], bytes]]] = {
    "dot": write_dot,
    "graphml": write_graphml,
    "json": write_json,
    "msgpack": _write_msgpack,
    "svg": write_memory_svg,
    "text": _write_text,
}

FORMATS: Final = (*_WRITERS, "html")
