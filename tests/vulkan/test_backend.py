"""The backend as a whole: submissions, host time, stop tokens, and steps that go wrong."""

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.backends.vulkan.api import lib
from bitgraph.backends.vulkan.backend import VulkanBackend
from bitgraph.backends.vulkan.layout import to_bytes
from bitgraph.backends.vulkan.limits import Limits
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.backends.vulkan.queue import Queue, Ticket
from bitgraph.backends.vulkan.runner import run_commands
from bitgraph.backends.vulkan.watch import FLAGS, with_watch
from bitgraph.cli.main import main
from bitgraph.graph.errors import BitgraphError
from bitgraph.graph.program import Backend
from bitgraph.models.adapters.peft import load_adapter
from bitgraph.models.bitnet.batch import BatchGenerator
from bitgraph.models.bitnet.generate import Generator, Sampling
from bitgraph.models.bitnet.presets import preset_config, write_random_model
from bitgraph.models.data.examples import Example, prompted
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer
from graphs import read, training_graph
from tiny_model import CONFIG, RANK, model_values, random_batch
from vulkan_cases import kernel_device

STEPS = 40
OPTIONS = TrainingOptions(rank=RANK, alpha=6.0, batch_size=2, max_seq_len=16, warmup=0, lr=1e-3)

SQUARES = read(
    """
    graph @squares {
      input %x: f32[300]
      state %s: f32[300]
      %a: f32[300] = add(%x, %s) @body
      %b: f32[300] = mul(%a, %a) @body
      %c: f32[300] = scale(%b) {factor=0.5} @tail
      return %c
    }
    """
)


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of steps that go wrong

BACKENDS = pytest.mark.parametrize("kind", [NumpyBackend, VulkanBackend])


def open_backend(kind: type[Backend]) -> Backend:
    return VulkanBackend(kernel_device()) if kind is VulkanBackend else kind()


@pytest.fixture
def backend() -> Iterator[VulkanBackend]:
    device = kernel_device()
    yield VulkanBackend(device)
    assert device.messages == []


def examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        prompted(rng.integers(0, CONFIG.vocab_size, 12).astype(np.int32), 4) for _ in range(count)
    ]


def test_a_training_step_is_one_submission(backend: VulkanBackend) -> None:
    trainer = Trainer(CONFIG, model_values(), backend, OPTIONS, bucket=8)
    list(trainer.fit(examples(2)))
    before = backend.device.submissions
    assert len(list(trainer.fit(examples(2 * STEPS)))) == STEPS
    windows = 2  # of 32 steps, each uploaded by one submission more
    assert backend.device.submissions - before == STEPS + windows


def test_sixteen_tokens_are_one_submission(backend: VulkanBackend) -> None:
    generator = Generator(CONFIG, model_values(), backend, context=128)
    tokens = generator.generate([1, 2, 3], Sampling(), frozenset(), 113)
    next(tokens)
    before = backend.device.submissions
    assert len(list(tokens)) == 112
    uploads = 2  # of 64 steps each
    assert backend.device.submissions - before <= 112 / 16 + uploads


@pytest.mark.skipif(
    "BITGRAPH_TEST_DEVICE" not in os.environ,
    reason="the host's time means something beside a GPU: name one in BITGRAPH_TEST_DEVICE",
)
def test_a_step_costs_the_host_less_than_a_millisecond(backend: VulkanBackend) -> None:
    trainer = Trainer(CONFIG, model_values(), backend, OPTIONS, bucket=8)
    list(trainer.fit(examples(2)))
    program = backend.compile(training_graph(24))
    inputs = {**random_batch([12, 12]).inputs(), "lr": np.float32(1e-3), "step": np.int32(1)}
    program.stage([{name: np.asarray(value) for name, value in inputs.items()}] * STEPS)
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        pending = program.start()
        started = time.perf_counter()
        pending.ticket.wait()  # type: ignore[attr-defined]
        done = time.perf_counter()
        pending.results()
        times.append(started - begin + time.perf_counter() - done)
    print(f"host time of a step: {statistics.median(times) * 1e3:.3f} ms")
    assert statistics.median(times) < 1e-3


def test_the_device_stops_at_a_stop_token(backend: VulkanBackend) -> None:
    free, stopping = (
        Generator(CONFIG, model_values(), backend, context=64).generate(
            [1, 2, 3], Sampling(temperature=1.0, seed=3), stops, 30
        )
        for stops in (frozenset[int](), frozenset({-5}))
    )
    tokens = list(free)
    assert list(stopping) == tokens
    stop = tokens[10]
    generator = Generator(CONFIG, model_values(), backend, context=64)
    given = list(
        generator.generate([1, 2, 3], Sampling(temperature=1.0, seed=3), frozenset({stop}), 30)
    )
    assert given == tokens[: tokens.index(stop)]
    if tokens.index(stop):  # it came from the decoding graph
        assert backend.read("stopped").tolist() == [1]


def test_the_device_remembers_the_tokens_of_a_text(backend: VulkanBackend) -> None:
    """So large a penalty lets no token come twice; a conversation goes on from its cache."""
    generator = Generator(CONFIG, model_values(), backend, context=64)
    sampling = Sampling(temperature=1.0, min_p=1e-6, repetition_penalty=1000.0, seed=3)
    prompt = [1, 2, 3]
    for _ in range(2):
        tokens = list(generator.generate(prompt, sampling, frozenset(), 12))
        assert len({*prompt, *tokens}) == len(prompt) + 12
        flags = set(np.flatnonzero(backend.read("seen")).tolist())
        assert {*prompt, *tokens[:-1]} <= flags  # the last one is flagged when it is fed
        prompt = prompt + tokens[:5]
    free = generator.generate([1, 2, 3], Sampling(temperature=1.0, seed=3), frozenset(), 40)
    assert len(set(free)) < 40


def test_a_watched_schedule_flags_the_first_bad_result() -> None:
    watch = with_watch(make_plan(SQUARES, Limits()), SQUARES, Limits())
    assert [value.name for _, value in watch.watched] == ["a", "b", "c"]
    for x, first in ((1.0, None), (1e30, "b"), (np.inf, "a"), (np.nan, "a")):
        memory = {b.name: np.full(b.size, 0xFF, np.uint8) for b in watch.plan.schedule.buffers}
        memory["x"][:] = to_bytes(np.array([0.0] * 299 + [x], np.float32))
        memory["s"][:] = memory[FLAGS][:] = 0
        run_commands(watch.plan.schedule.commands, memory, np.random.default_rng(0))
        found = watch.first(memory[FLAGS])
        assert (found[1].name if found else None) == first


@BACKENDS
def test_the_first_bad_result_is_named(kind: type[Backend]) -> None:
    backend = open_backend(kind)
    backend.load({"s": np.zeros(300, np.float32)})
    program = backend.compile(SQUARES)
    x = np.zeros(300, np.float32)
    assert program.first_nonfinite({"x": x}) is None
    x[257] = 1e30
    assert program.first_nonfinite({"x": x}) == "%b: f32[300] (mul in body)"
    assert np.isinf(program.run({"x": x})["c"][257])


@BACKENDS
def test_steps_behind_a_bad_one_change_nothing(kind: type[Backend]) -> None:
    """Even if they were started before anybody saw what happened."""
    backend = open_backend(kind)
    trainer = Trainer(CONFIG, model_values(), backend, OPTIONS, bucket=8)
    adapters = [trainer.tensors()]
    program = backend.compile(training_graph(24))
    good = {**random_batch([12, 12]).inputs(), "lr": np.float32(1e-3), "step": np.int32(1)}
    good = {name: np.asarray(value) for name, value in good.items()}
    bad = {**good, "weights": np.full(24, np.inf, np.float32)}
    for steps in ([good], [bad, good, good]):
        program.stage(steps)
        norms = [float(r["grad_norm"]) for r in program.start(len(steps)).results()]
        assert np.isfinite(norms).all() == (steps == [good])
        assert np.isnan(norms).all() == (steps != [good])
        adapters.append(trainer.tensors())
    first, second, third = adapters
    assert all(np.array_equal(second[name], third[name]) for name in first)
    assert not any(np.array_equal(first[name], second[name]) for name in first)


@BACKENDS
def test_a_bad_step_ends_training_and_names_the_tensor(kind: type[Backend]) -> None:
    backend = open_backend(kind)
    trainer = Trainer(CONFIG, model_values(), backend, OPTIONS, bucket=8)
    reports = trainer.fit(examples(20))
    next(reports)
    backend.load({"norm.weight": np.full(CONFIG.hidden_size, np.inf, np.float32)})
    with pytest.raises(BitgraphError) as raised:
        list(reports)
    message = str(raised.value)
    assert f"step {trainer.steps_done + 1} gave a loss of nan" in message
    assert "the first tensor of it that is not finite is %normed: f32[24,16] (rms_norm" in message
    assert 1 <= trainer.steps_done <= 3
    tensors = trainer.tensors()
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    with pytest.raises(BitgraphError, match="gradient norm of nan"):
        list(trainer.fit(examples(2)))


def test_a_device_lost_in_a_run_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver answers that the device is gone when step 5 is submitted."""
    kernel_device()
    model, data, out = tmp_path / "m.gguf", tmp_path / "d.json", tmp_path / "out"
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96}
    write_random_model(model, preset_config("tiny", **sizes), seed=0)
    record = {"instruction": "What is up?", "input": "", "output": "down"}
    data.write_text(json.dumps([record] * 8))
    submit = Queue.submit
    steps = count()

    def lose(queue: Queue, commands: object, what: str, repeats: int = 1) -> Ticket:
        if what == "@bitnet_loss" and next(steps) == 4:
            queue._check(lib.VK_ERROR_DEVICE_LOST, f"submitting {what}")
        return submit(queue, commands, what, repeats)

    monkeypatch.setattr(Queue, "submit", lose)
    device = os.environ.get("BITGRAPH_TEST_DEVICE", "lavapipe")
    arguments = (
        "train", "--model", model, "--data", data, "--out", out, "--rank", 2, "--save-steps", 2,
        "--batch-size", 1, "--backend", "vulkan", "--device", device,
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["bitgraph", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("bitgraph: the device was lost while submitting @bitnet_loss")
    *_, kept = sorted((out / "checkpoints").iterdir())
    assert last.endswith(f"the same command with --resume goes on from {kept}")
    assert all(np.isfinite(tensor).all() for tensor in load_adapter(kept).tensors.values())


@pytest.mark.parametrize(
    ("sequences", "sampling"), [(4, Sampling()), (12, Sampling(temperature=1.0, seed=3))]
)
def test_prompts_together_are_answered_as_alone(
    backend: VulkanBackend, sequences: int, sampling: Sampling
) -> None:
    """With few-row kernels and with tiles, a group that is not full, and a stop token."""
    rng = np.random.default_rng(0)
    lengths = (5, 1, 22, 3, 9, 2, 30, 7, 4, 11)
    prompts = [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in lengths]
    one = Generator(CONFIG, model_values(), backend, context=64)
    free = list(one.generate(prompts[0], sampling, frozenset(), 12))
    stops = frozenset({free[6]})
    wanted = [list(one.generate(prompt, sampling, stops, 12)) for prompt in prompts]
    many = BatchGenerator(
        CONFIG, model_values(), backend, longest=30, max_tokens=12, sequences=sequences
    )
    assert list(many.generate(prompts, sampling, stops)) == wanted
    assert len({len(answer) for answer in wanted}) > 1
