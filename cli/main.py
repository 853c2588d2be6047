"""The entry point: commands, and one sentence for everything a person can mend."""

import contextlib
import io
import os
import sys
import warnings

import click

from .. import __version__
from ..graph.errors import BitgraphError
from .adapters import export, import_, merge
from .bench.command import bench
from .compile import compile_
from .corpus import corpus
from .data import data
from .devices import devices
from .diff_backends import diff_backends
from .evaluate import eval_
from .generate import generate
from .graph import graph
from .init import init
from .inspect import inspect
from .opt import opt
from .train import train
from .tune import tune
from .verify import verify
from .watching import report


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitgraph")
def cli() -> None:
    """LoRA fine-tuning and generation for BitNet b1.58."""


_COMMANDS = (
    train,
    generate,
    eval_,
    export,
    import_,
    merge,
    bench,
    compile_,
    corpus,
    data,
    devices,
    diff_backends,
    graph,
    init,
    inspect,
    opt,
    report,
    tune,
    verify,
)
for command in _COMMANDS:
    cli.add_command(command)


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
