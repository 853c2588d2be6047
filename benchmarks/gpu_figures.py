r"""The figures of docs/benchmarks.md that need a GPU, one command after the other.

    python benchmarks/gpu_figures.py --against torch --out FOLDER
    python benchmarks/gpu_figures.py --only train-4 --only prefill --seconds 300 --out FOLDER

What tells most comes first, so that little time is not lost. Each command runs in a process of its
own on the same model; its output and its JSON file are left in the folder. Status 1 if one failed.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from bitgraph.cli.bench.random_models import random_model
from bitgraph.models.bitnet.presets import PRESETS, preset_config

BITGRAPH = (sys.executable, "-c", "from bitgraph.cli.main import main; main()")
LONG_RUN = (sys.executable, str(Path(__file__).with_name("long_run.py")))


@dataclass(frozen=True)
class Figure:
    """A command.

    Attributes:
        name: for people and files.
        command: of `bitgraph bench`, or of the long run.
        compares: whether PyTorch can do it too.
    """

    name: str
    command: tuple[str, ...]
    compares: bool = True


def training(batch: int, budget: str) -> Figure:
    """Steps of so many sequences of 512 tokens."""
    shape = ("--batch", str(batch), "--length", "512", "--steps", "10")
    limit = ("--memory-budget", budget) if budget else ()
    return Figure(f"train-{batch}", ("train", *shape, *limit))


FIGURES = (
    Figure("kernels", ("kernels",), compares=False),
    training(4, "8GiB"),
    training(1, ""),
    training(8, "12GiB"),
    Figure("prefill", ("prefill", "--prompt", "512")),
    Figure("decode", ("decode", "--rounds", "3")),
    Figure("start", ("start",), compares=False),
)


@click.command()
@click.option("--preset", type=click.Choice(list(PRESETS)), default="2b-4t", show_default=True)
@click.option("--device", help="Vulkan device, by index or name; a GPU if left out.")
@click.option("--against", type=click.Choice(["torch"]), help="Measure PyTorch beside it.")
@click.option("--compile", "compiled", is_flag=True, help="PyTorch with torch.compile too.")
@click.option("--only", multiple=True, help="Names of figures; all if left out.")
@click.option("--seconds", default=1800.0, show_default=True, help="For all of them together.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for results.")
def main(
    preset: str,
    device: str | None,
    against: str | None,
    compiled: bool,
    only: tuple[str, ...],
    seconds: float,
    out: Path,
) -> None:
    """Run them."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    given = ("--model", str(random_model(preset_config(preset))))
    given += ("--device", device) if device else ()
    torch = ("--against", against, *(("--compile",) if compiled else ())) if against else ()
    failed = False
    for name, command in commands(given, torch, out):
        if not only or name in only:
            failed |= not run(name, command, end, out)
    sys.exit(failed)


def commands(
    given: tuple[str, ...], torch: tuple[str, ...], out: Path
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and command lines, with the options that are common to all."""
    for figure in FIGURES:
        sides = torch if figure.compares else ()
        target = ("--json", str(out / f"{figure.name}.json"))
        yield figure.name, (*BITGRAPH, "bench", *figure.command, *given, *sides, *target)
    device = given[2:]
    yield "long-run", (*LONG_RUN, "check", "--steps", "2000", "--tokens", "50000", *device)


def run(name: str, command: tuple[str, ...], end: float, out: Path) -> bool:
    """Run a command as long as time is left, and say how it went."""
    begin = time.monotonic()
    path = out / f"{name}.txt"
    with path.open("w") as file:
        try:
            left = max(0.1, end - begin)
            code: int | str = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=left, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = "no time left"
    outcome = "done" if code == 0 else f"failed ({code})"
    click.echo(f"{name}: {outcome} after {time.monotonic() - begin:.0f} s, see {path}")
    return code == 0


if __name__ == "__main__":
    main()
