r"""Speed and memory of the Vulkan backend on the 2B-4T geometry, PyTorch beside it if asked.

    python benchmarks/gpu.py all --model 2b.gguf --against torch --profile --json OUT.json
    python benchmarks/gpu.py all --tiny --device lavapipe

`all` runs part after part, each in a process of its own: what one part breaks, a lost device
included, the next does not feel. `train` and `decode` are such parts; each prints one line of
JSON. A model that is absent is made first, with random weights. See docs/benchmarks.md.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.bitnet.presets import preset_config, write_random_model
from gpu_parts import measure_decoding, measure_training, profile_decoding, profile_training
from instruments import GROUPINGS, Result

HERE = Path(__file__).parent
SHARES = (1.0, 0.5, 0.25, 0.12)
"""Parts of an unbudgeted run's activations that budgets leave."""
SHOWN_LINES = 5
"""Last lines of an error that are shown; the JSON file holds more."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """A process that prints a result.

    Attributes:
        name: what is measured; the sides of a comparison share it.
        command: script and arguments.
        python: the interpreter.
    """

    name: str
    command: tuple[str, ...]
    python: str = sys.executable

    def run(self, timeout: float) -> Result:
        """The result, or {"error": why there is none}."""
        try:
            done = subprocess.run(
                [self.python, *self.command],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done within {timeout:g} s"}
        except OSError as error:
            return {"error": str(error)}
        if done.returncode:
            return {"error": f"exit {done.returncode}: {done.stderr[-3000:].strip()}"}
        try:
            result: Result = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            return {"error": f"no result in its output: {done.stdout[-1000:].strip()}"}
        return result


def plan_parts(
    ours: tuple[str, ...],
    theirs: tuple[str, ...],
    shapes: list[tuple[int, int]],
    prompt: int,
    tokens: int,
    steps: int,
    torch_python: str | None,
    by: str | None,
) -> Iterator[Part]:
    """What `all` runs, both sides of each comparison in turn.

    Args:
        ours: options of every part of this side.
        theirs: options of every part of PyTorch's side.
        shapes: batch and length of the training steps.
        prompt: tokens of the prompt.
        tokens: to generate.
        steps: measured training steps.
        torch_python: PyTorch's interpreter, None to leave it out.
        by: how profiles group dispatches, None for no profiles.
    """
    works: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        (
            f"train {batch}x{length}",
            ("train", "--batch", str(batch), "--length", str(length)),
            ("--steps", str(steps)),
        )
        for batch, length in shapes
    ]
    for lora in ((), ("--lora",)):
        name = "decode with adapter" if lora else "decode"
        works.append(
            (name, ("decode", *lora, "--prompt", str(prompt), "--tokens", str(tokens)), ())
        )
    for name, work, measured in works:
        yield Part(name, (str(HERE / "gpu.py"), *work, *measured, *ours))
        if torch_python:
            command = (str(HERE / "peft_gpu.py"), *work, *measured, *theirs)
            yield Part(name, command, torch_python)
        if by:
            command = (str(HERE / "gpu.py"), *work, *ours, "--profile", "--by", by)
            yield Part(f"{name}: kernels", command)


def gib(result: Result, *names: str) -> str:
    """Bytes as GiB, a dash for what is missing."""
    return " / ".join(f"{result[n] / 2**30:.2f}" if n in result else "-" for n in names)


def summary(result: Result) -> str:
    """A result on one line."""
    if "error" in result:
        lines: list[str] = result["error"].splitlines()
        return "FAILED: " + "\n    ".join(lines[-SHOWN_LINES:])
    if "profiles" in result:
        return ", ".join(f"@{p['name']} {p['seconds'] * 1e3:.2f} ms" for p in result["profiles"])
    speeds = result["tokens_per_second"]
    if isinstance(speeds, dict):
        speed = ", ".join(f"{value:,.1f} tokens/s {mode}" for mode, value in speeds.items())
    else:
        speed = f"{speeds:,.1f} tokens/s"
    training = "step_seconds" in result
    name, seconds = ("step", "step_seconds") if training else ("prefill", "prefill_seconds")
    step = f", {result[seconds] * 1e3:.2f} ms a {name}"
    if result["side"] == "torch":
        memory = gib(result, "memory_allocated", "memory_reserved")
        return f"{speed}{step}; {memory} GiB allocated / reserved"
    unit = "step" if training else "token"
    memory = gib(result, "memory_predicted", "memory_allocated", "memory_driver")
    return (
        f"{speed}{step}; {memory} GiB predicted / allocated / by the driver; "
        f"{result[f'submissions_per_{unit}']:.3f} submissions, "
        f"{result['dispatches']} dispatches, {result['barriers']} barriers a {unit}; "
        f"host {result['host_seconds'] * 1e3:.3f} ms a {unit}"
    )


def speed_of(result: Result) -> float | None:
    """Tokens per second, the best of several ways; None where it failed."""
    speeds = result.get("tokens_per_second")
    return max(speeds.values()) if isinstance(speeds, dict) else speeds


def ratios(results: list[Result]) -> dict[str, float]:
    """Our speed over PyTorch's, for what both sides have done."""
    speeds = {(r["part"], r.get("side")): speed_of(r) for r in results}
    pairs = {
        part: (speeds.get((part, "bitgraph")), speeds.get((part, "torch"))) for part, _ in speeds
    }
    return {part: ours / theirs for part, (ours, theirs) in pairs.items() if ours and theirs}


def print_profile(profile: Result) -> None:
    """A table, of which what takes less than a thousandth is left out."""
    total = profile["seconds"]
    count = sum(group["count"] for group in profile["groups"])
    click.echo(f"    @{profile['name']}: {count} dispatches, {total * 1e3:.2f} ms one by one")
    for group in profile["groups"]:
        seconds, count = group["seconds"], group["count"]
        if seconds >= total / 1000:
            click.echo(
                f"    {seconds / total:6.1%} {seconds * 1e3:9.3f} ms {count:6} x "
                f"{seconds / count * 1e6:9.1f} us  {group['group']}"
            )


def common(command: CommandT) -> CommandT:
    """Options of both parts."""
    for option in (
        click.option("--by", type=click.Choice(list(GROUPINGS)), default="kernel"),
        click.option("--profile", is_flag=True, help="Time every kernel instead."),
        click.option("--device", help="Vulkan device, by index or name."),
        click.option("--model", type=click.Path(path_type=Path, exists=True), required=True),
    ):
        command = option(command)
    return command


def emit(measure: Callable[..., Result], *arguments: Any) -> None:
    """Print a result, or the error in one sentence."""
    try:
        click.echo(json.dumps(measure(*arguments)))
    except BitgraphError as error:
        raise click.ClickException(str(error)) from None


@click.group()
def cli() -> None:
    """Measure the Vulkan backend."""


@cli.command()
@common
@click.option("--batch", default=1, show_default=True, help="Sequences a step.")
@click.option("--length", default=512, show_default=True, help="Tokens of each.")
@click.option("--steps", default=20, show_default=True, help="Measured steps.")
@click.option("--memory-budget", "budget", default="", help="Of a step, as in 6GiB.")
def train(
    model: Path,
    device: str | None,
    profile: bool,
    by: str,
    batch: int,
    length: int,
    steps: int,
    budget: str,
) -> None:
    """LoRA training steps on all projections."""
    if profile:
        emit(profile_training, model, device, batch, length, by)
    else:
        emit(measure_training, model, device, batch, length, steps, budget)


@cli.command()
@common
@click.option("--lora", is_flag=True, help="With an adapter, unmerged.")
@click.option("--prompt", default=64, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", default=256, show_default=True, help="Tokens to generate.")
def decode(
    model: Path, device: str | None, profile: bool, by: str, lora: bool, prompt: int, tokens: int
) -> None:
    """Greedy decoding of one sequence."""
    if profile:
        emit(profile_decoding, model, device, lora, prompt, tokens, by)
    else:
        emit(measure_decoding, model, device, lora, prompt, tokens)


@cli.command()
@click.option("--model", type=click.Path(path_type=Path), help="GGUF file, made if absent.")
@click.option("--tiny", is_flag=True, help="A small geometry, to try the benchmark itself.")
@click.option("--device", help="Vulkan device, by index or name; a GPU if left out.")
@click.option("--batch", default=4, show_default=True, help="Sequences a step.")
@click.option("--length", default=512, show_default=True, help="Tokens of each.")
@click.option("--steps", default=12, show_default=True, help="Measured steps.")
@click.option("--against", type=click.Choice(["torch"]), help="Measure PyTorch beside it.")
@click.option("--torch-python", default=sys.executable, help="The interpreter that has PyTorch.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds that a part may take.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write results.")
def checkpoint(
    model: Path | None,
    tiny: bool,
    device: str | None,
    batch: int,
    length: int,
    steps: int,
    against: str | None,
    torch_python: str,
    timeout: float,
    target: Path | None,
) -> None:
    """Train at 100%, 50%, 25% and 12% of the activations, PyTorch with checkpointing beside it."""
    preset = "tiny" if tiny else "2b-4t"
    path = ensure_model(model or Path("runs") / f"random-{preset}.gguf", preset)
    shape = ("--batch", str(batch), "--length", str(length), "--steps", str(steps))
    ours = ("train", "--model", str(path), *(("--device", device) if device else ()), *shape)
    results: list[Result] = []
    for share in SHARES:
        budget = budget_of(share, results[0]) if results else ""
        command = (str(HERE / "gpu.py"), *ours, *(("--memory-budget", budget) if budget else ()))
        result = Part(f"{share:.0%} of the activations", command).run(timeout)
        results.append({"part": f"{share:.0%} of the activations", "share": share, **result})
        show_budget(results[-1], results[0])
        if "error" in results[0]:
            sys.exit(1)
    theirs = ("train", "--size", preset, *(("--device", "cpu") if tiny else ()), *shape)
    for name, option in (("plain", ()), ("gradient checkpointing", ("--checkpointing",))):
        if against:
            command = (str(HERE / "peft_gpu.py"), *theirs, *option)
            results.append({"part": name, **Part(name, command, torch_python).run(timeout)})
            show(results[-1])
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


def show_budget(result: Result, whole: Result) -> None:
    """A budgeted run beside the unbudgeted one."""
    if "error" in result:
        show(result)
        return
    budget = result["budget"].removesuffix("B")
    asked = f"{int(budget) / 2**30:.2f}" if budget else "-"
    met = "" if not budget or result["memory_predicted"] <= int(budget) else ", NOT MET"
    slower = result["step_seconds"] / whole["step_seconds"] - 1
    memory = gib(result, "peak_predicted", "memory_predicted", "memory_allocated", "memory_driver")
    click.echo(
        f"{result['part']}: budget {asked} GiB{met}; {memory} GiB foreseen / planned / allocated / "
        f"by the driver; {result['tokens_per_second']:,.0f} tokens/s, {slower:+.1%} a step, "
        f"{result['extra_compute']:+.1%} expected ({result['costs']} costs)"
    )


@cli.command("all")
@click.option("--model", type=click.Path(path_type=Path), help="GGUF file, made if absent.")
@click.option("--tiny", is_flag=True, help="A small geometry, to try the benchmark itself.")
@click.option("--device", help="Vulkan device, by index or name; a GPU if left out.")
@click.option("--against", type=click.Choice(["torch"]), help="Measure PyTorch beside it.")
@click.option("--torch-python", default=sys.executable, help="The interpreter that has PyTorch.")
@click.option("--profile", is_flag=True, help="Show what each kernel takes, too.")
@click.option("--by", type=click.Choice(list(GROUPINGS)), default="kernel", show_default=True)
@click.option("--steps", default=20, show_default=True, help="Measured training steps.")
@click.option("--only", type=click.Choice(["train", "decode"]), help="Leave out the others.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds that a part may take.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write results.")
def run_all(
    model: Path | None,
    tiny: bool,
    device: str | None,
    against: str | None,
    torch_python: str,
    profile: bool,
    by: str,
    steps: int,
    only: str | None,
    timeout: float,
    target: Path | None,
) -> None:
    """Run every part; a part that fails is reported and the next one runs."""
    preset = "tiny" if tiny else "2b-4t"
    path = ensure_model(model or Path("runs") / f"random-{preset}.gguf", preset)
    parts = plan_parts(
        ours=("--model", str(path), *(("--device", device) if device else ())),
        theirs=("--size", preset, *(("--device", "cpu") if tiny else ())),
        shapes=[(1, 64), (4, 64)] if tiny else [(1, 512), (4, 512)],
        prompt=16 if tiny else 64,
        tokens=64 if tiny else 256,
        steps=steps,
        torch_python=torch_python if against else None,
        by=by if profile else None,
    )
    results: list[Result] = []
    report = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "results": results}
    for part in parts:
        if only and not part.name.startswith(only):
            continue
        results.append({"part": part.name, **part.run(timeout)})
        show(results[-1])
        if target:
            target.write_text(json.dumps({**report, "ratios": ratios(results)}, indent=2) + "\n")
    for name, ratio in ratios(results).items():
        click.echo(f"{name}: {ratio:.2f} times PyTorch's speed")
    if any("error" in result for result in results):
        sys.exit(1)


def show(result: Result) -> None:
    """Print a result, with its profiles."""
    side = f" [{result['side']}, {result['device']}]" if "side" in result else ""
    click.echo(f"{result['part']}{side}: {summary(result)}")
    for profile in result.get("profiles", ()):
        print_profile(profile)


def ensure_model(path: Path, preset: str) -> Path:
    """Make a model with random weights where there is none."""
    if not path.exists():
        begin = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_random_model(path, preset_config(preset), seed=0)
        click.echo(f"{path} made in {time.perf_counter() - begin:.1f} s")
    return path


if __name__ == "__main__":
    cli()
