r"""The text form of a graph, one statement a line, and its parser: ``parse(str(g)) == g``.

::

    graph @m {
      input %x: f32[4,16]
      weight %up: t2[24,16]
      %q: q8[4,16] = quantize(%x) @layers.0
      %u: f32[4,24] = ternary_matmul(%q, %up) {note="an attribute"} @layers.0
      return %u
    }

A donated input stands behind its output: ``return %p.new -> %p``.
"""

import json
import re
from collections.abc import Iterator

from .ir import Alias, Attr, Graph, Input, Node, Role, Value, sorted_attrs
from .types import GraphError, parse_type

NAME = r"[\w.\-]+"
"""What a name of a graph or a value is made of."""

SCOPE = r"[\w./\-]*"
"""What a scope is made of."""

_HEAD = re.compile(rf"graph @({NAME}) \{{")
_INPUT = re.compile(rf"(input|weight|param|state) %({NAME}): (\S+)")
_NODE = re.compile(
    r"(?P<outputs>%.+?) = (?P<op>\w+)\((?P<inputs>[^)]*)\)"
    r"(?: \{(?P<attrs>.*)\})?(?: @(?P<scope>[\w./\-]+))?"
)
_OUTPUT = re.compile(rf"%({NAME}): (\S+)")
_RETURN = re.compile(rf"%({NAME})(?: -> %({NAME}))?")
_ATTR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\([\d, -]*\)|[^",(){}\s]+)(?:, |$)')


def format_graph(graph: Graph) -> str:
    """The text form."""
    donated = {alias.output: alias.donated for alias in graph.aliases}
    lines = [f"graph @{graph.name} {{"]
    lines += [f"  {i.role} %{i.value.name}: {i.value.type}" for i in graph.inputs]
    lines += [f"  {format_node(node)}" for node in graph.nodes]
    returned = [
        f"%{v.name} -> %{donated[v.name]}" if v.name in donated else f"%{v.name}"
        for v in graph.outputs
    ]
    lines += [f"  return {', '.join(returned)}".rstrip(), "}"]
    return "\n".join(lines) + "\n"


def format_node(node: Node) -> str:
    """One node's line, without indentation."""
    outputs = ", ".join(f"%{v.name}: {v.type}" for v in node.outputs)
    line = f"{outputs} = {node.op}({', '.join(map(str, node.inputs))})"
    if node.attrs:
        line += " {" + ", ".join(f"{k}={format_attr(v)}" for k, v in node.attrs) + "}"
    if node.scope:
        line += f" @{node.scope}"
    return line


def format_attr(value: Attr) -> str:
    """Text of an attribute; floats always carry a point, an exponent or a name."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(str, value)) + ")"
    return repr(value)


def parse_attr(text: str) -> Attr:
    """Inverse of `format_attr`."""
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return str(json.loads(text))
    if text.startswith("("):
        return tuple(int(item) for item in text[1:-1].split(",") if item.strip())
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def parse_attrs(text: str) -> dict[str, Attr]:
    """Attributes from the inside of their braces.

    Raises:
        GraphError: the text is not a list of ``name=value``, each name once.
    """
    return {name: read_attr(value) for name, value in split_attrs(text).items()}


def split_attrs(text: str) -> dict[str, str]:
    """The texts of attributes by name, from the inside of their braces.

    Raises:
        GraphError: the text is not a list of ``name=value``, each name once.
    """
    texts: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _ATTR.match(text, position)
        if match is None:
            raise GraphError(f"'{text[position:]}' is not a list of name=value")
        if match[1] in texts:
            raise GraphError(f"'{match[1]}' is given twice")
        texts[match[1]] = match[2]
        position = match.end()
    return texts


def read_attr(text: str) -> Attr:
    """As `parse_attr`, with an error that a person reads.

    Raises:
        GraphError: the text is not a value of an attribute.
    """
    try:
        return parse_attr(text)
    except ValueError:
        raise GraphError(f"'{text}' is not a value of an attribute") from None


class _Parser:
    """Reads lines one by one; names must be defined before they are used."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}

    def define(self, name: str, type_text: str) -> Value:
        value = Value(name, parse_type(type_text))
        if name in self.values:
            raise GraphError(f"%{name} is defined twice")
        self.values[name] = value
        return value

    def use(self, name: str) -> Value:
        if name not in self.values:
            raise GraphError(f"%{name} is used before it is defined")
        return self.values[name]

    def statement(self, line: str) -> None:
        if match := _INPUT.fullmatch(line):
            if self.nodes:
                raise GraphError("inputs stand before nodes")
            self.inputs.append(Input(self.define(match[2], match[3]), Role(match[1])))
        elif match := _NODE.fullmatch(line):
            self.nodes.append(self.node(match))
        else:
            raise GraphError(f"'{line}' is neither an input, a node nor a return")

    def node(self, match: re.Match[str]) -> Node:
        operands = [text for text in match["inputs"].split(", ") if text]
        if not all(re.fullmatch(rf"%{NAME}", text) for text in operands):
            raise GraphError(f"'{match['inputs']}' is not a list of values such as %x, %y")
        inputs = tuple(self.use(text[1:]) for text in operands)
        outputs = []
        for text in _split_outputs(match["outputs"]):
            output = _OUTPUT.fullmatch(text)
            if output is None:
                raise GraphError(f"'{text}' is not a result such as %y: f32[4,16]")
            outputs.append(self.define(output[1], output[2]))
        attrs = parse_attrs(match["attrs"]) if match["attrs"] else {}
        return Node(match["op"], inputs, tuple(outputs), sorted_attrs(attrs), match["scope"] or "")

    def returned(self, text: str) -> tuple[tuple[Value, ...], tuple[Alias, ...]]:
        outputs: list[Value] = []
        aliases: list[Alias] = []
        for item in filter(None, text.split(", ")):
            match = _RETURN.fullmatch(item)
            if match is None:
                raise GraphError(f"'{item}' is not a returned value such as %y or %new -> %old")
            outputs.append(self.use(match[1]))
            if match[2]:
                aliases.append(Alias(match[1], self.use(match[2]).name))
        return tuple(outputs), tuple(aliases)


def _split_outputs(text: str) -> Iterator[str]:
    """Split ``%a: f32[1,2], %b: f32[3]`` at the commas between results."""
    return iter(re.split(r", (?=%)", text))


def parse_graph(text: str) -> Graph:
    """Read the text form. Blank lines and lines that start with # or // are skipped.

    Raises:
        GraphError: with the number of the line that does not parse. Types and ops are not checked
            here; `verify` does that.
    """
    parser, name, closed = _Parser(), "", False
    result: Graph | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(("#", "//")):
            continue
        try:
            if closed:
                raise GraphError(f"'{line}' stands behind the graph")
            if not name:
                head = _HEAD.fullmatch(line)
                if head is None:
                    raise GraphError(f"'{line}' is not 'graph @name {{'")
                name = head[1]
            elif result is not None:
                if line != "}":
                    raise GraphError(f"'{line}' stands behind the return")
                closed = True
            elif line == "return" or line.startswith("return "):
                outputs, aliases = parser.returned(line[len("return") :].strip())
                result = Graph(name, tuple(parser.inputs), tuple(parser.nodes), outputs, aliases)
            else:
                parser.statement(line)
        except GraphError as error:
            raise GraphError(f"line {number}: {error}") from None
    if result is None or not closed:
        raise GraphError("the text ends before the graph's closing brace")
    return result
