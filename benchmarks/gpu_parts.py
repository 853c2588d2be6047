"""The measured parts of the GPU benchmark: training steps and decoding, and their profiles."""

import statistics
import time
from pathlib import Path

import numpy as np
from bitgraph.backends.vulkan.query import select_device
from bitgraph.cli.costs import measured_costs
from bitgraph.models.adapters.lora import LoraAdapter, initial_tensors
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.config import PROJECTIONS, BitNetConfig, projection_shapes
from bitgraph.models.bitnet.generate import Generator, Sampling
from bitgraph.models.data.batching import make_batch
from bitgraph.models.data.examples import Example, prompted
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer
from instruments import (
    ProfilingDevice,
    Reading,
    Result,
    WatchedBackend,
    describe,
    memory,
    opened,
    profiles,
    size_of,
)

RANK, ALPHA = 16, 32.0
WARMUP = 3
"""Training steps before the measured ones."""
UNSUPERVISED = 8
"""Leading tokens of a training example that carry no label."""
PROFILED = 4
"""Steps or tokens of a profile, of which the last is shown."""


def make_trainer(
    model: Path, backend: WatchedBackend, batch: int, length: int, steps: int, budget: str = ""
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
    model: Path, device: str | None, batch: int, length: int, steps: int, budget: str = ""
) -> Result:
    """Train as `bitgraph train` does, a step read while the next one runs.

    Returns:
        "step_seconds" and "host_seconds" (of a step, outside the wait for the device) are medians,
        "tokens_per_second" follows from the first; "peak_predicted" is what the pass foresees
        before there is a plan, "extra_compute" is a part of the step; "submissions_per_step" counts
        the recording's, "copies" all others of the whole run.
    """
    with opened(device) as (gpu, queue):
        before = gpu.memory_used()
        backend = WatchedBackend(gpu)
        begin = time.perf_counter()
        trainer, examples = make_trainer(model, backend, batch, length, WARMUP + steps, budget)
        plan = trainer.report(examples)
        backend.programs = backend.programs[-1:]  # the others were tried before
        readings = [Reading.take(queue)]
        reports = []
        for report in trainer.fit(examples):
            reports.append(report)
            readings.append(Reading.take(queue))
        first, last = readings[0], readings[-1]
        laps = list(zip(readings[WARMUP:], readings[WARMUP + 1 :], strict=False))
        median = statistics.median(report.seconds for report in reports[WARMUP:])
        submissions = last.recordings - first.recordings
        return {
            **describe(gpu),
            "batch": batch,
            "length": length,
            "steps": steps,
            "trained_parameters": trainer.num_parameters,
            "loss": reports[-1].loss,
            "load_seconds": first.seconds - begin,
            "first_step_seconds": reports[0].seconds,
            "step_seconds": median,
            "tokens_per_second": batch * length / median,
            "budget": budget,
            "peak_predicted": plan.peak,
            "saved": plan.saved,
            "extra_compute": plan.extra,
            "costs": trainer.costs.device or "estimated",
            "host_seconds": statistics.median(b.host_seconds_since(a) for a, b in laps),
            "submissions_per_step": submissions / len(reports),
            "copies": last.submissions - first.submissions - submissions,
            **size_of(backend.programs[0]),
            **memory(backend, before),
        }


def profile_training(model: Path, device: str | None, batch: int, length: int, by: str) -> Result:
    """Time the kernels of a training step."""
    gpu = ProfilingDevice(select_device(device))
    with gpu:
        trainer, examples = make_trainer(model, WatchedBackend(gpu), batch, length, 1)
        for step in range(1, PROFILED + 1):
            trainer.step(make_batch(examples), step, 1e-4)
        return {**describe(gpu), "profiles": profiles(gpu, by)}


def make_generator(
    model: Path, backend: WatchedBackend, lora: bool, prompt: int, tokens: int
) -> tuple[Generator, list[int]]:
    """A generator with room for so many tokens, and a random prompt."""
    checkpoint = load_checkpoint(model)
    config = checkpoint.config
    adapter = random_adapter(config) if lora else None
    context = prompt + tokens
    generator = Generator(config, checkpoint.weights, backend, adapter, context)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, prompt)
    return generator, ids.tolist()


def random_adapter(config: BitNetConfig) -> LoraAdapter:
    """An adapter on all projections as training starts it, but with small values in B."""
    tensors = initial_tensors(projection_shapes(config), RANK, seed=0)
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if ".lora_B." in name:
            tensor[...] = 0.01 * rng.standard_normal(tensor.shape, np.float32)
    return LoraAdapter(RANK, ALPHA, tuple(PROJECTIONS), tensors)


def measure_decoding(
    model: Path, device: str | None, lora: bool, prompt: int, tokens: int
) -> Result:
    """Continue a prompt greedily as `bitgraph generate` does, once to warm up, once for the clock.

    Returns:
        "tokens_per_second" and all that is per token leave out the prefill and the token it gives;
        "submissions_per_token" counts the recording's, "copies_per_token" all others.
    """
    with opened(device) as (gpu, queue):
        before = gpu.memory_used()
        backend = WatchedBackend(gpu)
        generator, ids = make_generator(model, backend, lora, prompt, tokens)
        for _ in generator.generate(ids, Sampling(), frozenset(), min(tokens, 32)):
            pass
        begin = Reading.take(queue)
        stream = generator.generate(ids, Sampling(), frozenset(), tokens)
        next(stream)
        first = Reading.take(queue)
        count = sum(1 for _ in stream)
        last = Reading.take(queue)
        submissions = last.recordings - first.recordings
        return {
            **describe(gpu),
            "lora": lora,
            "prompt": prompt,
            "tokens": tokens,
            "prefill_seconds": first.seconds - begin.seconds,
            "tokens_per_second": count / (last.seconds - first.seconds),
            "host_seconds": last.host_seconds_since(first) / count,
            "submissions_per_token": submissions / count,
            "copies_per_token": (last.submissions - first.submissions - submissions) / count,
            **size_of(backend.programs[-1]),
            **memory(backend, before),
        }


def profile_decoding(
    model: Path, device: str | None, lora: bool, prompt: int, tokens: int, by: str
) -> Result:
    """Time the kernels of a prefill and of a token in the middle of the text."""
    gpu = ProfilingDevice(select_device(device))
    with gpu:
        backend = WatchedBackend(gpu)
        backend.steps_together = 1
        generator, ids = make_generator(model, backend, lora, prompt, tokens)
        for _ in generator.generate(ids, Sampling(), frozenset(), PROFILED):
            pass
        return {**describe(gpu), "profiles": profiles(gpu, by)}
