"""`--config`: options from a TOML file; and the file of that kind that a run leaves.

A key is an option's name as on the command line, without the dashes in front. What stands on the
command line goes before what stands in the file.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import tomli_w

from .. import __version__
from ..graph.errors import BitgraphError
from ..models.files import write_text
from .options import PATH, CommandT, Names

CONFIG_FILE = "config.toml"

_OF_ONE_COMMAND = frozenset({"config", "resume", "force", "dump-passes"})
"""Options that say nothing about what a run computes."""

_INTEGERS = click.types.IntParamType
_NUMBERS = click.types.FloatParamType


def config_option(command: CommandT) -> CommandT:
    """Give a command the option `--config`."""
    return click.option(
        "--config",
        type=PATH,
        is_eager=True,
        expose_value=False,
        callback=_take_defaults,
        help="TOML file of options, named as here without dashes in front; those given here win.",
    )(command)


def _take_defaults(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_config(path, context)}


def read_config(path: Path, context: click.Context) -> dict[str, Any]:
    """The options in a file, by the names of the command's parameters.

    Raises:
        BitgraphError: the file cannot be read, or a key or a value is wrong.
    """
    options = dict(_options(context.command))
    values: dict[str, Any] = {}
    for key, value in _parse(path).items():
        option = options.get(key)
        if option is None:
            close = difflib.get_close_matches(key, options, 1)
            advice = f"do you mean {close[0]}?" if close else "see --help for their names"
            raise BitgraphError(f"{path}: there is no option {key}; {advice}")
        chosen = _value(option, value, f"{path}: {key}", context)
        if chosen is not None and values.setdefault(option.name, chosen) != chosen:
            raise BitgraphError(f"{path}: {key} and another key exclude each other; keep one")
    return values


def write_config(folder: Path, context: click.Context, known: Mapping[str, Any]) -> None:
    """Leave the options of a command in a folder.

    Args:
        folder: that gets the file.
        context: of the command.
        known: by key, what has become of options meanwhile.

    Raises:
        BitgraphError: the file cannot be written.
    """
    values = {key: _plain(context.params[o.name], o) for key, o in _options(context.command)}
    values |= known
    kept = {key: value for key, value in values.items() if value is not None}
    head = f"# bitgraph {__version__}; paths are as from the folder where the command ran.\n"
    write_text(folder / CONFIG_FILE, head + tomli_w.dumps(kept))


def _options(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Those that a file may have, by their keys."""
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value:
            yield max(option.opts, key=len).removeprefix("--"), option


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise BitgraphError(f"{path} could not be read ({reason}); check --config") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BitgraphError(f"{path} is not valid TOML ({reason}); mend it") from None


def _value(option: click.Option, value: Any, where: str, context: click.Context) -> Any:
    """A value as the option takes it, None for a switch that is off.

    Raises:
        BitgraphError: it is of another type, or out of the option's range.
    """
    kind, fits = _expected(option)
    if not fits(value):
        raise BitgraphError(f"{where} must be {kind}, not {value!r}")
    if option.is_flag:
        return value if option.is_bool_flag else option.flag_value if value else None
    try:
        option.type.convert(value, option, context)
    except click.UsageError as error:
        raise BitgraphError(f"{where} is wrong: {error.message}") from None
    return value


def _expected(option: click.Option) -> tuple[str, Callable[[Any], bool]]:
    """What an option takes, in words and as a test."""
    if option.is_flag:
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(option.type, _INTEGERS):
        return "a whole number", lambda value: type(value) is int
    if isinstance(option.type, _NUMBERS):
        return "a number", lambda value: type(value) in (int, float)
    if isinstance(option.type, Names):
        return (
            "a list of words",
            lambda value: (
                isinstance(value, str)
                or (isinstance(value, list) and all(isinstance(word, str) for word in value))
            ),
        )
    return "text", lambda value: isinstance(value, str)


def _plain(value: Any, option: click.Option) -> Any:
    """A parameter's value as TOML has it, None for what the file leaves out."""
    key = max(option.opts, key=len).removeprefix("--")
    if key in _OF_ONE_COMMAND or value is None:
        return None
    if option.is_flag and not option.is_bool_flag:
        return True if value == option.flag_value else None
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
