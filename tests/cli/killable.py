"""Commands in processes of their own, which start quickly and may be killed."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from bitgraph.cli.main import main


def run(arguments: Sequence[object], errors: Path) -> None:
    """Run a command in this process; what it says goes into a file."""
    sys.argv = ["bitgraph", *map(str, arguments)]
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
        main()


def start(arguments: Sequence[object], errors: Path) -> BaseProcess:
    """Begin a command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bitgraph.cli.main", "bitgraph.cli.train"])
    process = context.Process(target=run, args=(arguments, errors))
    process.start()
    return process
