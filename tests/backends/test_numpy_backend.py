"""The NumPy backend against `evaluate`, whatever the threads and the shapes."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import BLOCK, NumpyBackend
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.ops import OPS
from bitgraph.graph.ops.record import Case, OpDef
from bitgraph.graph.tensors import HostValue, Quantized, Ternary
from bitgraph.graph.types import DType, GraphError
from bitgraph.models.bitnet.forward import (
    FIRST_SLOT,
    STOPS,
    decode_graph,
    logits_graph,
    loss_graph,
    prompt_graph,
)
from bitgraph.passes.optimizer import SOUND
from graphs import read, training_graph
from op_cases import assert_close, assert_same_bits, draw, fixed_cases, one_op_graph
from tiny_model import CONFIG, batch_values, model_values, random_batch, random_values

LENGTHS = {
    1: [1],
    127: [60, 67],
    128: [128],
    129: [40, 1, 88],
    300: [100, 150, 50],
}
"""Examples that fill batches around the size of a block."""

assert BLOCK == 128


def split_inputs(
    graph: Graph, values: dict[str, HostValue]
) -> tuple[dict[str, HostValue], dict[str, np.ndarray]]:
    """What is loaded, and what changes at every step."""
    fed = {v.name for v in graph.inputs_of(Role.INPUT)}
    inputs = {name: np.asarray(values[name]) for name in fed}
    return {name: value for name, value in values.items() if name not in fed}, inputs


def run_once(
    graph: Graph, values: dict[str, HostValue], threads: int = 2
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returned outputs, and the donated inputs after the step."""
    backend = NumpyBackend(threads=threads)
    loaded, inputs = split_inputs(graph, values)
    backend.load(loaded)
    outputs = backend.compile(graph).run(inputs)
    return outputs, {alias.donated: backend.read(alias.donated) for alias in graph.aliases}


def training_values(tokens: int) -> dict[str, HostValue]:
    graph = training_graph(tokens)
    schedule = {"lr": np.asarray(0.01, np.float32), "step": np.asarray(3, np.int32)}
    params = random_values(graph, (Role.PARAM, Role.STATE))
    return {**model_values(), **batch_values(random_batch(LENGTHS[tokens])), **params, **schedule}


# Equal to evaluate


def backend_graph(op: OpDef, case: Case) -> Graph:
    """The op alone. Int8 codes are not fed from outside, so they are quantized in the graph."""
    plain = [
        replace(o, type=o.type.with_dtype(DType.F32)) if o.type.dtype is DType.Q8 else o
        for o in case.operands
    ]
    if plain == list(case.operands):
        return one_op_graph(op, case)
    text = str(one_op_graph(op, case)).replace("input %x0: q8", "input %f: f32")
    line = f"  %x0: {case.operands[0].type} = quantize(%f)\n"
    head, result, tail = text.partition(f"  %{op.name}")
    return read(head + line + result + tail)


def backend_values(graph: Graph, case: Case) -> dict[str, HostValue]:
    plain = [v.dense(np.float32) if isinstance(v, Quantized) else v for v in draw(case)]
    return dict(zip((item.value.name for item in graph.inputs), plain, strict=True))


PLAIN = [op for op in OPS.values() if op.name != "quantize"]


@pytest.mark.parametrize(("op", "case"), fixed_cases(PLAIN))
def test_every_op_gives_what_evaluate_gives(op: OpDef, case: Case) -> None:
    graph = backend_graph(op, case)
    values = backend_values(graph, case)
    wanted = evaluate(graph, values)
    outputs, _ = run_once(graph, values)
    assert list(outputs) == [v.name for v in graph.outputs]
    for name, value in wanted.items():
        assert_close(outputs[name], value, 2e-6)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_a_training_step_gives_what_evaluate_gives(tokens: int) -> None:
    graph = training_graph(tokens)
    values = training_values(tokens)
    wanted = evaluate(graph, values)
    outputs, after = run_once(graph, values)
    donated = {alias.output: alias.donated for alias in graph.aliases}
    for name, value in wanted.items():
        found = after[donated[name]] if name in donated else outputs[name]
        assert_close(found, value, 2e-5)


def test_quantized_codes_are_the_same_in_blocks() -> None:
    """The int8 codes of a sweep over blocks equal those of all rows at once, bit for bit."""
    graph = read(
        """
        graph @g {
          input %x: f32[300,64]
          weight %n: f32[64]
          weight %eye: t2[64,64]
          %y: f32[300,64] = rms_norm(%x, %n) {eps=1e-05}
          %q: q8[300,64] = quantize(%y)
          %c: f32[300,64] = ternary_matmul(%q, %eye)
          return %y, %c
        }
        """
    )
    rng = np.random.default_rng(0)
    values: dict[str, HostValue] = {
        "x": rng.standard_normal((300, 64)).astype(np.float32),
        "n": rng.standard_normal(64).astype(np.float32),
        "eye": Ternary.pack(np.eye(64), 1.0),
    }
    found, _ = run_once(graph, values)
    for name, value in evaluate(graph, values).items():
        assert_same_bits(found[name], value)


@pytest.mark.parametrize("tokens", [1, 129, 300])
def test_the_number_of_threads_changes_no_bit(tokens: int) -> None:
    graph = training_graph(tokens)
    values = training_values(tokens)
    first_outputs, first_after = run_once(graph, values, threads=1)
    for threads in (2, 3):
        outputs, after = run_once(graph, values, threads)
        for name, value in {**outputs, **after}.items():
            assert_same_bits(value, {**first_outputs, **first_after}[name])


# Persistent values


def test_steps_update_what_persists_in_place() -> None:
    tokens = 129
    graph = training_graph(tokens)
    values = training_values(tokens)
    loaded, inputs = split_inputs(graph, values)
    backend = NumpyBackend(threads=2)
    backend.load(loaded)
    program = backend.compile(graph)
    losses = []
    for step in range(1, 4):
        wanted = evaluate(graph, {**values, "step": np.asarray(step, np.int32)})
        outputs = program.run({**inputs, "step": np.asarray(step, np.int32)})
        assert set(outputs) == {"loss", "nll", "grad_norm"}
        losses.append(float(outputs["loss"]))
        for alias in graph.aliases:
            # the reference goes on from the backend's values, so that differences do not pile up
            found = backend.read(alias.donated)
            assert_close(found, wanted[alias.output], 2e-4)
            changed = found.tobytes() != np.asarray(values[alias.donated]).tobytes()
            assert changed == (alias.donated != SOUND)
            values[alias.donated] = found
    assert losses[2] < losses[0]


def test_programs_of_several_shapes_share_one_model() -> None:
    backend = NumpyBackend(threads=2)
    backend.load(model_values())
    for tokens, lengths in ((5, [5]), (9, [4, 5])):
        batch = random_batch(lengths)
        graph = loss_graph(CONFIG, tokens)
        found = backend.compile(graph).run(batch_values(batch))
        wanted = evaluate(graph, {**model_values(), **batch_values(batch)})
        assert_close(found["nll"], wanted["nll"], 1e-4)


def test_decoding_through_the_cache_equals_the_whole_sequence() -> None:
    """A prompt, then one token at a time, against logits of everything at once."""
    length, context = 12, 16
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, length).astype(np.int32)
    whole = logits_graph(CONFIG, length)
    places = np.arange(length, dtype=np.int32)
    logits = evaluate(
        whole,
        {
            **model_values(),
            "tokens": tokens,
            "positions": places,
            "first": np.zeros_like(places),
            "last": places,
        },
    )["logits"]
    backend = NumpyBackend(threads=2)
    backend.load(model_values())
    prompt, one = prompt_graph(CONFIG, 7, context), decode_graph(CONFIG, context)
    backend.load(random_values(prompt, (Role.STATE,)))
    backend.load({FIRST_SLOT: np.zeros(1, np.int32)})
    knobs = {
        "temperature": np.asarray(0, np.float32),
        "top_k": np.asarray(0, np.int32),
        "top_p": np.asarray(1, np.float32),
        "reach": np.asarray(-1, np.float32),
        "seed": np.asarray(0, np.uint32),
        "stops": np.full(STOPS, -1, np.int32),
    }
    slots = places[:7]
    inputs = {
        "tokens": tokens[:7],
        "positions": slots,
        "slots": slots,
        "first": np.zeros_like(slots),
        "last": slots,
        "row": np.array([6], np.int32),
        "end": np.array([7], np.int32),
    }
    greedy = np.argmax(np.asarray(logits), axis=1)
    outputs = backend.compile(prompt).run({**knobs, **inputs})
    assert list(outputs) == ["next"]
    assert outputs["next"].tolist() == [int(greedy[6])]
    program = backend.compile(one)
    for position in range(7, length):
        assert backend.read("position").tolist() == [position]
        backend.load({"token": tokens[position : position + 1]})
        assert program.run(knobs)["next"].tolist() == [int(greedy[position])]
        assert backend.read("token").tolist() == [int(greedy[position])]
    backend.load({"position": np.array([length - 1], np.int32), "token": tokens[-1:]})
    knobs["stops"][2] = greedy[-1]
    assert [program.run(knobs)["next"][0] for _ in range(3)] == [greedy[-1], -1, -1]


def test_what_is_read_is_a_copy() -> None:
    backend = NumpyBackend(threads=1)
    backend.load({"p": np.zeros(3, np.float32)})
    backend.read("p")[:] = 7
    assert backend.read("p").tolist() == [0, 0, 0]
    backend.load({"p": np.ones(2, np.float32)})
    assert backend.read("p").tolist() == [1, 1]


def test_packed_values_are_not_read() -> None:
    backend = NumpyBackend(threads=1)
    backend.load({"w": Ternary.pack(np.ones((2, 2), np.int8), 1.0)})
    with pytest.raises(GraphError, match="%w is packed and has no plain contents"):
        backend.read("w")


SUM = read(
    """
    graph @g {
      input %x: f32[2,3]
      weight %e: f16[4,3]
      param %p: f32[2,3]
      %y: f32[2,3] = add(%x, %p)
      %l: f32[2,4] = matmul(%y, %e) {transpose_b=true}
      return %l
    }
    """
)


def test_outputs_do_not_change_with_the_next_step() -> None:
    backend = NumpyBackend(threads=1)
    backend.load({"p": np.zeros((2, 3), np.float32), "e": np.ones((4, 3), np.float16)})
    program = backend.compile(SUM)
    first = program.run({"x": np.ones((2, 3), np.float32)})["l"]
    program.run({"x": np.zeros((2, 3), np.float32)})
    assert first.tolist() == [[3.0] * 4] * 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", None, "no value is given for the input %x"),
        ("p", None, "no value is given for the param %p"),
        ("e", None, "no value is given for the weight %e"),
        ("x", np.zeros((2, 3)), r"%x is given as f64\[2,3\], not f32\[2,3\]"),
        ("x", np.zeros((3, 2), np.float32), r"%x is given as f32\[3,2\], not f32\[2,3\]"),
        (
            "x",
            np.zeros((2, 3), np.int64),
            r"%x is not f32\[2,3\]: an array of int64 is not a tensor",
        ),
        ("x", np.zeros((2, 3), bool), r"%x is not f32\[2,3\]: an array of bool is not a tensor"),
        ("p", np.zeros((2, 3), np.int32), r"%p is given as i32\[2,3\], not f32\[2,3\]"),
        ("p", Ternary.pack(np.zeros((2, 3)), 1.0), r"%p is given as t2\[2,3\], not f32\[2,3\]"),
        ("e", np.zeros((3, 4), np.float16), r"%e is given as f.*\[3,4\], not f.*\[4,3\]"),
        ("e", np.zeros((4, 3), np.float64), r"%e is given as f64\[4,3\], not f16\[4,3\]"),
        ("e", Ternary.pack(np.zeros((4, 3)), 1.0), r"%e is given as t2\[4,3\], not f16\[4,3\]"),
    ],
)
def test_a_missing_or_mistyped_value_is_named(
    name: str, value: HostValue | None, message: str
) -> None:
    loaded: dict[str, HostValue] = {
        "p": np.zeros((2, 3), np.float32),
        "e": np.zeros((4, 3), np.float16),
    }
    inputs: dict[str, np.ndarray] = {"x": np.zeros((2, 3), np.float32)}
    for values in (loaded, inputs):
        if name in values:
            if value is None:
                del values[name]
            else:
                values[name] = value  # type: ignore[assignment]
    backend = NumpyBackend(threads=1)
    backend.load(loaded)
    with pytest.raises(GraphError, match=message):
        backend.compile(SUM).run(inputs)
    if name == "x":
        with pytest.raises(GraphError, match=message):
            backend.compile(SUM).stage([inputs])
    with pytest.raises(GraphError, match=f"%{name}"):
        evaluate(SUM, {**loaded, **inputs})


def test_staged_steps_run_in_order() -> None:
    backend = NumpyBackend(threads=1)
    backend.load({"p": np.zeros((2, 3), np.float32), "e": np.eye(4, 3, dtype=np.float16)})
    program = backend.compile(SUM)
    program.stage([{"x": np.full((2, 3), k, np.float32)} for k in range(5)])
    started = [program.start(), program.start(3), program.start()]
    assert all(pending.done for pending in started)
    seen = [step["l"][0, 0] for pending in started for step in pending.results()]
    assert seen == [0, 1, 2, 3, 4]
    program.stage([{"x": np.full((2, 3), 9, np.float32)}])
    assert program.start().results()[0]["l"][0, 0] == 9


def test_packed_outputs_come_as_host_values() -> None:
    graph = read("graph @g {\n input %x: f32[2,3]\n %q: q8[2,3] = quantize(%x)\n return %q\n}")
    x = np.array([[1, -2, 0.5], [0, 0, 0]], np.float32)
    codes = NumpyBackend(threads=1).compile(graph).run({"x": x})["q"]
    assert isinstance(codes, Quantized)
    assert codes.codes.tolist() == [[64, -127, 32], [0, 0, 0]]


def test_an_error_in_a_task_reaches_the_caller() -> None:
    graph = read(
        """
        graph @g {
          input %t: f32[4,2]
          input %ids: i32[300]
          %y: f32[300,2] = gather_rows(%t, %ids)
          return %y
        }
        """
    )
    program = NumpyBackend(threads=2).compile(graph)
    table = np.zeros((4, 2), np.float32)
    with pytest.raises(IndexError):
        program.run({"t": table, "ids": np.full(300, 9, np.int32)})
    found = program.run({"t": table, "ids": np.zeros(300, np.int32)})
    assert found["y"].shape == (300, 2)


def test_the_first_result_that_is_not_finite_is_named() -> None:
    backend = NumpyBackend(threads=1)
    backend.load({"p": np.zeros((2, 3), np.float32), "e": np.full((4, 3), 1e4, np.float16)})
    program = backend.compile(SUM)
    assert program.first_nonfinite({"x": np.ones((2, 3), np.float32)}) is None
    huge = np.full((2, 3), 3e38, np.float32)
    assert program.first_nonfinite({"x": huge}) == "%l: f32[2,4] (matmul)"
    backend.load({"p": np.full((2, 3), np.inf, np.float32)})
    assert program.first_nonfinite({"x": huge}) == "%y: f32[2,3] (add)"


# evaluate


def test_evaluate_checks_the_type_of_every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read("graph @g {\n input %x: f32[2]\n %y: f32[2] = relu(%x)\n return %y\n}")
    values: dict[str, HostValue] = {"x": np.zeros(2, np.float32)}
    for wrong in (lambda x: x.astype(np.float64), lambda x: x[:1]):
        monkeypatch.setitem(OPS, "relu", replace(OPS["relu"], eval=wrong))
        with pytest.raises(GraphError, match=r"%y is given as .*, not f32\[2\]"):
            evaluate(graph, values)


def test_scalars_are_arrays_everywhere() -> None:
    graph = read(
        """
        graph @g {
          input %x: f32[]
          %a: f32[] = add(%x, %x)
          %b: f32[] = squared_relu(%a)
          %c: f32[] = mul(%b, %x)
          return %a, %b, %c
        }
        """
    )
    x = np.asarray(1.5, np.float32)
    found, _ = run_once(graph, {"x": x})
    for results in (found, evaluate(graph, {"x": x})):
        assert {name: float(np.asarray(v)) for name, v in results.items()} == {
            "a": 3.0, "b": 9.0, "c": 13.5,
        }  # fmt: skip
        assert all(type(v) is np.ndarray and v.shape == () for v in results.values())
