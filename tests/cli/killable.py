"""Commands in processes of their own, which start quickly and may be killed."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bitgraph.cli.main import main

OPERATIONS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
"""What a process asks of a file system, as functions of `os`."""

WRITING = {"write_checkpoint", "remove_old"}
"""Functions whose operations are counted."""


def run(arguments: Sequence[object], errors: Path, operation: int) -> None:
    """Run a command in this process; what it says goes into a file."""
    sys.argv = ["bitgraph", *map(str, arguments)]
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
        if operation:
            die_before(operation)
        main()


def die_before(number: int) -> None:
    """Let this process be killed before one of the operations that put checkpoints on disk.

    Args:
        number: of the operation, counted from 1 over all checkpoints of the process.
    """
    left = number

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            if _is_writing():
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def _is_writing() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name in WRITING:
            return True
    return False


def start(arguments: Sequence[object], errors: Path, operation: int = 0) -> BaseProcess:
    """Begin a command, which `die_before` an operation ends if one is given."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bitgraph.cli.main", "bitgraph.cli.train"])
    process = context.Process(target=run, args=(arguments, errors, operation))
    process.start()
    return process
