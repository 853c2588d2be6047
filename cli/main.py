"""The entry point: commands, and one sentence for everything a person can mend."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

from .. import __version__
from ..graph.errors import BitgraphError

COMMANDS: Final[Mapping[str, str]] = {
    "bench": "bench.command:bench",
    "compile": "compile:compile_",
    "corpus": "corpus:corpus",
    "data": "data:data",
    "devices": "devices:devices",
    "diff-backends": "diff_backends:diff_backends",
    "eval": "evaluate:eval_",
    "export": "adapters:export",
    "generate": "generate:generate",
    "graph": "graph:graph",
    "import": "adapters:import_",
    "init": "init:init",
    "inspect": "inspect:inspect",
    "merge": "adapters:merge",
    "opt": "opt:opt",
    "pretrain": "pretrain:pretrain",
    "report": "watching:report",
    "train": "train:train",
    "tune": "tune:tune",
    "verify": "verify:verify",
}
"""Where each command lies: a module of this package and a name in it."""


class Commands(click.Group):
    """A group that imports a command when it is asked for: no command waits for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(f".{module}", __package__), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitgraph")
def cli() -> None:
    """LoRA fine-tuning and generation for BitNet b1.58."""


def main() -> None:
    """Run the command line; bad input ends with one sentence and status 2, Ctrl-C with 130."""
    _prepare_output()
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except BitgraphError as error:
        fail(str(error))
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        _discard_output()
        sys.exit(0)
    except OSError as error:
        _discard_output()
        place = error.filename or "the output"
        fail(f"{place} failed ({error.strerror or error}); check its disk and permissions")
    except MemoryError as error:
        fail(f"there is not enough memory ({error}); choose smaller sizes")


def fail(message: str) -> None:
    """Print why a command cannot go on, and end with status 2."""
    click.echo(f"bitgraph: {message}", err=True)
    sys.exit(2)


def _prepare_output() -> None:
    """Let no character and no number end a command: text that a terminal cannot show becomes "?".

    A number that overflows makes a loss or a norm that is not finite, which the trainer reports.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"bitgraph\.")


def _discard_output() -> None:
    """Keep the interpreter from failing once more when it flushes what nobody takes."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
