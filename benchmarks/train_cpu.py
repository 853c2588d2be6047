r"""LoRA fine-tuning on the CPU, bitgraph's NumPy backend beside transformers + PEFT.

Both sides train the same model on the same records with the settings of `peft_cpu`, each in a
process of its own, in turn; the ratio is taken round by round.

    python benchmarks/train_cpu.py --gguf MODEL.gguf --hf HF_FOLDER --data TRAIN.json \
        --steps 12 --rounds 3 --threads 2

Needs the `torch` extra. To run both on chosen cores: `taskset -c 0,1 python benchmarks/…`.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
PATH = click.Path(path_type=Path, exists=True)


@click.group()
def cli() -> None:
    """Compare both sides, or run bitgraph's alone."""


@cli.command()
@click.option("--gguf", type=PATH, required=True, help="The model for bitgraph.")
@click.option("--data", type=PATH, required=True, help="Training records.")
@click.option("--eval-data", type=PATH, help="Records to take the loss of.")
@click.option("--steps", default=0, help="Steps to run, 0 for the whole epoch.")
@click.option("--threads", default=2, show_default=True)
def bitgraph(gguf: Path, data: Path, eval_data: Path | None, steps: int, threads: int) -> None:
    """Train with bitgraph and print the result as JSON; the first step is not timed."""
    from bitgraph.backends.numpy.backend import NumpyBackend
    from bitgraph.models.bitnet.checkpoint import load_checkpoint
    from bitgraph.models.bitnet.tokenizer import Tokenizer
    from bitgraph.models.data.encoding import EncodingOptions
    from bitgraph.models.data.source import prepare
    from bitgraph.models.training.options import TrainingOptions
    from bitgraph.models.training.trainer import Trainer

    checkpoint = load_checkpoint(gguf)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, str(gguf))
    options = TrainingOptions(lr=2e-3, warmup=6, max_seq_len=256, max_steps=steps)
    trainer = Trainer(checkpoint.config, checkpoint.weights, NumpyBackend(threads), options)
    result: dict[str, Any] = {"side": "bitgraph", "threads": threads}
    encoding = EncodingOptions(options.max_seq_len)
    held_out = prepare(eval_data, tokenizer, encoding).encoded.examples if eval_data else None
    if held_out:
        result["eval_loss_before"] = trainer.evaluate(held_out)
    examples = prepare(data, tokenizer, encoding).encoded.examples
    begin = time.perf_counter()
    reports = list(trainer.fit(examples))
    result["wall_seconds"] = time.perf_counter() - begin
    timed = reports[1:] or reports
    result["tokens_per_second"] = sum(r.tokens for r in timed) / sum(r.seconds for r in timed)
    result["steps"] = len(reports)
    result["losses"] = [round(r.loss, 4) for r in reports[-3:]]
    if held_out:
        result["eval_loss_after"] = trainer.evaluate(held_out)
    print(json.dumps(result))


@cli.command()
@click.option("--gguf", type=PATH, required=True, help="The model for bitgraph.")
@click.option("--hf", type=PATH, required=True, help="The same model for transformers.")
@click.option("--data", type=PATH, required=True, help="Training records.")
@click.option("--steps", default=12, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
def compare(gguf: Path, hf: Path, data: Path, steps: int, rounds: int, threads: int) -> None:
    """Run both sides in turn and print tokens per second and their ratio, round by round."""
    ours = [str(HERE / "train_cpu.py"), "bitgraph", "--gguf", str(gguf), "--steps", str(steps)]
    theirs = [str(HERE / "peft_cpu.py"), "--model", str(hf), "--max-steps", str(steps)]
    theirs += ["--json", "/dev/stdout"]
    ratios = []
    for number in range(1, rounds + 1):
        speeds = [
            _speed([*command, "--data", str(data), "--threads", str(threads)], threads)
            for command in (ours, theirs)
        ]
        ratios.append(speeds[0] / speeds[1])
        print(
            f"round {number}: bitgraph {speeds[0]:,.0f} tokens/s, PEFT {speeds[1]:,.0f} tokens/s, "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


def _speed(command: list[str], threads: int) -> float:
    """Tokens per second of one side, from the JSON it prints."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    result, _ = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index("{"))
    return float(result["tokens_per_second"])


if __name__ == "__main__":
    cli()
