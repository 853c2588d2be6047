r"""Training under memory budgets that leave 100%, 50%, 25% and 12% of the activations.

    python benchmarks/budgets.py --batch 4 --length 512 --against torch --json OUT.json

Memory is printed as foreseen, planned, allocated and reported by the driver, and the slowdown
beside the expected one; PyTorch follows with and without gradient checkpointing. See
docs/benchmarks.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click
from bitgraph.cli.bench.random_models import random_model
from bitgraph.cli.bench.results import Result
from bitgraph.cli.bench.sides import Side, torch_geometry, torch_side
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.presets import PRESETS, preset_config

SHARES = (1.0, 0.5, 0.25, 0.12)
"""Parts of an unbudgeted run's activations that budgets leave."""


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Instead of random weights.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="2b-4t", show_default=True)
@click.option("--device", help="Vulkan device, by index or name; a GPU if left out.")
@click.option("--batch", default=4, show_default=True, help="Sequences a step.")
@click.option("--length", default=512, show_default=True, help="Tokens of each.")
@click.option("--steps", default=12, show_default=True, help="Measured steps.")
@click.option("--against", type=click.Choice(["torch"]), help="Measure PyTorch beside it.")
@click.option("--torch-python", default=sys.executable, help="The interpreter that has PyTorch.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds that a part may take.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write results.")
def main(
    model: Path | None,
    preset: str,
    device: str | None,
    batch: int,
    length: int,
    steps: int,
    against: str | None,
    torch_python: str,
    timeout: float,
    target: Path | None,
) -> None:
    """Measure each share in a process of its own."""
    path = model or random_model(preset_config(preset))
    shape: dict[str, Any] = {"batch": batch, "length": length, "steps": steps}
    ours = {"model": str(path), "backend": "vulkan", "device": device, **shape}
    results: list[Result] = []
    for share in SHARES:
        budget = budget_of(share, results[0]) if results else ""
        side = Side(f"{share:.0%} of the activations", "train", {**ours, "budget": budget})
        results.append({"share": share, **side.run(timeout)})
        show(results[-1], results[0])
        if "error" in results[0]:
            sys.exit(1)
    theirs = {"geometry": torch_geometry(load_checkpoint(path).config), **shape}
    for checkpointing in (False, True) if against else ():
        name = "PyTorch, gradient checkpointing" if checkpointing else "PyTorch"
        arguments = {**theirs, "checkpointing": checkpointing}
        results.append(torch_side(name, "train", torch_python, arguments).run(timeout))
        show(results[-1], results[0])
    if target:
        target.write_text(json.dumps({"results": results}, indent=2) + "\n")
    if any("error" in result for result in results):
        sys.exit(1)


def budget_of(share: float, whole: Result) -> str:
    """The budget that leaves a part of the unbudgeted run's activations; empty for all of them."""
    if share == 1 or "error" in whole:
        return ""
    fixed = whole["memory_predicted"] - whole["memory_arenas"]
    return f"{fixed + int(share * whole['memory_arenas'])}B"


def show(result: Result, whole: Result) -> None:
    """A run beside the unbudgeted one."""
    if "error" in result:
        click.echo(f"{result['name']} FAILED: {result['error']}")
        return
    slower = result["step_seconds"] / whole["step_seconds"] - 1
    speed = f"{result['tokens_per_second']:,.0f} tokens/s, {slower:+.1%} a step"
    if "budget" not in result:
        memory = gib(result, "memory_allocated", "memory_reserved")
        click.echo(f"{result['name']}: {memory} GiB allocated / reserved; {speed}")
        return
    budget = result["budget"].removesuffix("B")
    asked = f"{int(budget) / 2**30:.2f}" if budget else "-"
    met = "" if not budget or result["memory_predicted"] <= int(budget) else ", NOT MET"
    memory = gib(result, "peak_predicted", "memory_predicted", "memory_allocated", "memory_driver")
    click.echo(
        f"{result['name']}: budget {asked} GiB{met}; {memory} GiB foreseen / planned / allocated / "
        f"by the driver; {speed}, {result['extra_compute']:+.1%} expected ({result['costs']} costs)"
    )


def gib(result: Result, *names: str) -> str:
    """Bytes as GiB, a dash for what is missing."""
    return " / ".join(f"{result[n] / 2**30:.2f}" if n in result else "-" for n in names)


if __name__ == "__main__":
    main()
