"""Whole jobs on one backend: training steps, decoding, prefill.

Each function returns a `Result` and takes what JSON can hold, so that `run_side` can call it in a
process of its own. Random tokens serve: speed does not depend on them.
"""

from pathlib import Path

import numpy as np

from ...graph.program import Backend
from ...models.adapters.lora import LoraAdapter, initial_tensors
from ...models.bitnet.checkpoint import load_checkpoint
from ...models.bitnet.config import PROJECTIONS, BitNetConfig, projection_shapes
from ...models.bitnet.generate import Generator, Sampling
from ...models.data.examples import Example, prompted
from ...models.training.options import TrainingOptions
from ...models.training.trainer import StepReport, Trainer
from ..costs import measured_costs
from .instruments import Meter, Reading, metered, warm_up
from .results import Result, spread

RANK, ALPHA = 16, 32.0
WARMUP = 3
"""Training steps before the measured ones."""
UNSUPERVISED = 8
"""Leading tokens of a training example that carry no label."""
WARM_TOKENS = 32
"""Tokens that are generated before the measured ones."""


def make_trainer(
    model: Path, backend: Backend, batch: int, length: int, steps: int, budget: str = ""
) -> tuple[Trainer, list[Example]]:
    """A trainer and random examples of exactly `length` tokens for so many steps."""
    checkpoint = load_checkpoint(model)
    options = TrainingOptions(
        rank=RANK,
        alpha=ALPHA,
        batch_size=batch,
        max_seq_len=length,
        warmup=WARMUP,
        memory_budget=budget,
    )
    costs = measured_costs(backend)
    weights = checkpoint.weights
    trainer = Trainer(checkpoint.config, weights, backend, options, costs=costs, bucket=1)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, checkpoint.config.vocab_size, (steps * batch, length), np.int32)
    return trainer, [prompted(row, UNSUPERVISED) for row in ids]


def measure_training(
    model: str,
    backend: str,
    device: str | None,
    batch: int,
    length: int,
    steps: int,
    budget: str = "",
) -> Result:
    """Train as `bitgraph train` does, a step read while the next one runs.

    Returns:
        "step_seconds" and "host_seconds" (of a step, outside the wait for the device) are medians,
        and "tokens_per_second" (real ones) and "supervised_per_second" follow from the first.
        "peak_predicted" is what the pass foresees before there is a plan, "extra_compute" is a part
        of the step; "submissions_per_step" counts the recording's, "copies" all others of the run.
    """
    with metered(backend, device) as meter:
        begin = meter.read()
        trainer, examples = make_trainer(
            Path(model), meter.backend, batch, length, WARMUP + steps, budget
        )
        plan = trainer.report(examples)
        meter.forget()  # what was tried before it fitted the budget
        readings = [meter.read()]
        reports: list[StepReport] = []
        for report in trainer.fit(examples):
            reports.append(report)
            readings.append(meter.read())
        laps = list(zip(readings[WARMUP:], readings[WARMUP + 1 :], strict=False))
        measured = reports[WARMUP:]
        times = spread("step_seconds", [report.seconds for report in measured])
        median = times["step_seconds"]
        return {
            **meter.describe(),
            "batch": batch,
            "length": length,
            "steps": steps,
            "trained_parameters": trainer.num_parameters,
            "loss": reports[-1].loss,
            "load_seconds": readings[0].seconds - begin.seconds,
            "first_step_seconds": reports[0].seconds,
            **times,
            "tokens_per_second": measured[-1].tokens / median,
            "supervised_per_second": measured[-1].supervised / median,
            "budget": budget,
            "peak_predicted": plan.peak,
            "saved": plan.saved,
            "extra_compute": plan.extra,
            "costs": trainer.costs.device or "estimated",
            **spread("host_seconds", [b.host_seconds_since(a) for a, b in laps]),
            **_submissions(readings[0], readings[-1], len(reports), "step"),
            **meter.size(),
            **meter.memory(),
        }


def make_generator(
    model: Path, backend: Backend, lora: bool, prompt: int, tokens: int
) -> tuple[Generator, np.random.Generator]:
    """A generator with room for so many tokens, and where its prompts are drawn from."""
    checkpoint = load_checkpoint(model)
    adapter = random_adapter(checkpoint.config) if lora else None
    generator = Generator(
        checkpoint.config, checkpoint.weights, backend, adapter, max(prompt, 64) + tokens
    )
    return generator, np.random.default_rng(0)


def draw_prompt(rng: np.random.Generator, prompt: int, config: BitNetConfig) -> list[int]:
    """Random tokens; two draws begin differently, so none is in the cache already."""
    ids: list[int] = rng.integers(0, config.vocab_size, prompt).tolist()
    return ids


def random_adapter(config: BitNetConfig) -> LoraAdapter:
    """An adapter on all projections as training starts it, but with small values in B."""
    tensors = initial_tensors(projection_shapes(config), RANK, seed=0)
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if ".lora_B." in name:
            tensor[...] = 0.01 * rng.standard_normal(tensor.shape, np.float32)
    return LoraAdapter(RANK, ALPHA, tuple(PROJECTIONS), tensors)


def measure_decoding(
    model: str,
    backend: str,
    device: str | None,
    lora: bool,
    prompt: int,
    tokens: int,
    rounds: int,
) -> Result:
    """Continue prompts greedily as `bitgraph generate` does, one round to warm up, some measured.

    Returns:
        "tokens_per_second" is the median of the rounds; it and all that is per token leave out the
        prefill and the token it gives. "submissions_per_token" counts the recording's,
        "copies_per_token" all others.
    """
    with metered(backend, device) as meter:
        config = load_checkpoint(Path(model)).config
        generator, rng = make_generator(Path(model), meter.backend, lora, prompt, tokens)
        _continue(meter, generator, draw_prompt(rng, prompt, config), min(tokens, WARM_TOKENS))
        laps = [
            _continue(meter, generator, draw_prompt(rng, prompt, config), tokens)
            for _ in range(rounds)
        ]
        _, first, last = laps[-1]
        count = tokens - 1
        return {
            **meter.describe(),
            "lora": lora,
            "prompt": prompt,
            "tokens": tokens,
            "rounds": rounds,
            **spread("prefill_seconds", [b.seconds - a.seconds for a, b, _ in laps]),
            **spread("tokens_per_second", [count / (c.seconds - b.seconds) for _, b, c in laps]),
            "host_seconds": last.host_seconds_since(first) / count,
            **_submissions(first, last, count, "token"),
            **meter.size(),
            **meter.memory(),
        }


def measure_prefill(
    model: str, backend: str, device: str | None, lora: bool, prompt: int, rounds: int
) -> Result:
    """The time from a prompt to the token behind it, whose choice is part of it.

    Returns:
        "prefill_seconds" is the median of the rounds, behind others to warm up.
    """
    with metered(backend, device) as meter:
        config = load_checkpoint(Path(model)).config
        generator, rng = make_generator(Path(model), meter.backend, lora, prompt, 64)

        def run() -> tuple[Reading, Reading, Reading]:
            return _continue(meter, generator, draw_prompt(rng, prompt, config), 1)

        warm_up(run)
        laps = [run() for _ in range(rounds)]
        times = spread("prefill_seconds", [b.seconds - a.seconds for a, b, _ in laps])
        return {
            **meter.describe(),
            "lora": lora,
            "prompt": prompt,
            "rounds": rounds,
            **times,
            "tokens_per_second": prompt / times["prefill_seconds"],
            **meter.size(),
            **meter.memory(),
        }


def _continue(
    meter: Meter, generator: Generator, ids: list[int], tokens: int
) -> tuple[Reading, Reading, Reading]:
    """What is read before the prompt, behind the token that it gives, and at the end."""
    begin = meter.read()
    stream = generator.generate(ids, Sampling(), frozenset(), tokens)
    next(stream)
    first = meter.read()
    for _ in stream:
        pass
    return begin, first, meter.read()


def _submissions(first: Reading, last: Reading, count: int, unit: str) -> Result:
    submissions = last.recordings - first.recordings
    return {
        f"submissions_per_{unit}": submissions / count,
        f"copies_per_{unit}": (last.submissions - first.submissions - submissions) / count,
    }
