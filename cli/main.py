"""The entry point: commands, and one sentence for everything a person can mend."""

import sys

import click

from .. import __version__
from ..graph.errors import BitgraphError
from .generate import generate
from .init import init
from .inspect import inspect
from .opt import opt
from .train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitgraph")
def cli() -> None:
    """LoRA fine-tuning and generation for BitNet b1.58."""


for command in (train, generate, init, inspect, opt):
    cli.add_command(command)


def main() -> None:
    """Run the command line; bad input ends with one sentence and status 2, Ctrl-C with 130."""
    try:
        cli.main(standalone_mode=False)
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
        sys.exit(0)


def fail(message: str) -> None:
    """Print why a command cannot go on, and end with status 2."""
    click.echo(f"bitgraph: {message}", err=True)
    sys.exit(2)
