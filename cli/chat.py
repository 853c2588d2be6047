"""The conversation of `bitgraph generate --chat`: lines in, answers out."""

import sys
from collections.abc import Iterator

import click

from ..graph.errors import BitgraphError
from ..models.data.encoding import encode_prompt
from ..models.data.records import Turn
from ..models.data.templates.template import Template
from .interrupt import interrupted
from .session import Session, parse_scale

_HELP = """\
/reset            forget the conversation
/lora NAME SCALE  change the factor of an adapter, 0 leaves it out
/exit             leave, as the end of the input does
Ctrl-C ends an answer."""


def chat(session: Session, template: Template, system: str | None) -> None:
    """Answer each line of standard input, with all that was said before in mind.

    What cannot be answered is said on standard error, and the conversation goes on.
    """
    beginning = [Turn("system", system)] if system else []
    history = list(beginning)
    for line in _lines():
        try:
            if line.startswith("/"):
                command, *arguments = line.split()
                if command == "/exit":
                    return
                if _command(session, command, arguments):
                    history = list(beginning)
            elif line.strip():
                history = _turn(session, template, [*history, Turn("user", line)])
        except BitgraphError as error:
            click.echo(f"bitgraph: {error}", err=True)


def _turn(session: Session, template: Template, asked: list[Turn]) -> list[Turn]:
    """Print the answer; the conversation with it. Ctrl-C keeps what was said so far."""
    pieces = []
    with interrupted() as stop:
        for piece in session.answer(encode_prompt(asked, template, session.tokenizer)):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
            if stop():
                break
    sys.stdout.write("\n")
    sys.stdout.flush()
    return [*asked, Turn("assistant", "".join(pieces))]


def _command(session: Session, command: str, arguments: list[str]) -> bool:
    """Carry out a command; whether the conversation begins anew."""
    if command == "/reset":
        return True
    if command == "/lora" and len(arguments) == 2:
        session.set_scale(arguments[0], parse_scale(arguments[1]))
    else:
        click.echo(_HELP, err=True)
    return False


def _lines() -> Iterator[str]:
    """Lines as they are typed, or from a pipe; Ctrl-C at a terminal begins the line anew."""
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        click.echo("/help lists what can be done, /exit leaves", err=True)
    while True:
        try:
            yield input("> " if at_terminal else "")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise BitgraphError(f"the input is not UTF-8 text (byte {error.start})") from None
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            click.echo(err=True)
