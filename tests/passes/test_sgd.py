"""SGD over several steps, against PyTorch's documented rule written out in float64."""

import numpy as np
import pytest
from bitgraph.backends.numpy.evaluate import evaluate
from bitgraph.graph.build import GraphBuilder
from bitgraph.graph.ir import Graph, Role
from bitgraph.graph.tensors import Array, HostValue
from bitgraph.graph.types import GraphError, tensor
from bitgraph.passes.optimizer import SOUND, AdamW, Optimizer, Sgd, initial_state

SHAPE = (3, 5)
MAX = float(np.finfo(np.float32).max)


def stepping(optimizer: Optimizer) -> Graph:
    """A step whose gradient is an input."""
    b = GraphBuilder("step")
    b.add_input("p", tensor("f32", *SHAPE), Role.PARAM)
    loss = b.add_input("loss", tensor("f32"), Role.INPUT)
    given = b.add_input("g", tensor("f32", *SHAPE), Role.INPUT)
    return optimizer(b.finish((loss, b.op("scale", given, factor=1.0, name="p.grad"))))


def run_steps(optimizer: Optimizer, gradients: list[Array], lrs: list[float]) -> dict[str, Array]:
    """Param and states behind the steps."""
    graph = stepping(optimizer)
    kept = {"p": np.linspace(-1, 1, 15, dtype=np.float32).reshape(SHAPE)}
    kept |= initial_state(optimizer, kept)
    for step, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), 1):
        inputs: dict[str, HostValue] = {
            "g": np.asarray(gradient, np.float32),
            "loss": np.float32(1).reshape(()),
            "lr": np.asarray(lr, np.float32),
            "step": np.asarray(step, np.int32),
        }
        results = evaluate(graph, {**kept, **inputs})
        kept = {name: np.asarray(results[f"{name}.new"]) for name in kept}
    return kept


def torch_sgd(
    gradients: list[Array], lrs: list[float], momentum: float, decay: float
) -> tuple[Array, Array]:
    """The rule in the documentation of torch.optim.SGD, with dampening 0: param and buffer."""
    p: Array = np.linspace(-1, 1, 15, dtype=np.float32).reshape(SHAPE).astype(np.float64)
    buffer: Array | None = None
    for gradient, lr in zip(gradients, lrs, strict=True):
        g = gradient + decay * p if decay else gradient
        buffer = g if buffer is None else momentum * buffer + g
        p = p - lr * buffer
    assert buffer is not None
    return p, buffer


def some_gradients(count: int) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(SHAPE) for _ in range(count)]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_six_steps_are_those_of_pytorch(momentum: float, decay: float) -> None:
    gradients, lrs = some_gradients(6), [0.3, 0.2, 0.1, 0.0, 0.05, 0.4]
    kept = run_steps(Sgd(momentum=momentum, weight_decay=decay, max_norm=0.0), gradients, lrs)
    p, buffer = torch_sgd(gradients, lrs, momentum, decay)
    np.testing.assert_allclose(kept["p"], p, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(kept["p.m"], buffer, rtol=2e-6, atol=2e-6)


def test_gradients_are_clipped_before_decay_is_added() -> None:
    (gradient,) = some_gradients(1)
    kept = run_steps(Sgd(weight_decay=0.1, max_norm=0.5), [gradient], [1.0])
    start = np.linspace(-1, 1, 15).reshape(SHAPE)
    wanted = start - (0.5 * gradient / np.linalg.norm(gradient) + 0.1 * start)
    np.testing.assert_allclose(kept["p"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [Sgd(), AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_gradient_changes_nothing_from_then_on(optimizer: Optimizer, bad: float) -> None:
    good = some_gradients(3)
    spoilt = good[1].copy()
    spoilt[2, 1] = bad
    one = run_steps(optimizer, good[:1], [0.1])
    three = run_steps(optimizer, [good[0], spoilt, good[2]], [0.1] * 3)
    assert (one.pop(SOUND), three.pop(SOUND)) == (1, 0)
    for name, value in one.items():
        np.testing.assert_array_equal(three[name], value, err_msg=name)


def test_huge_gradients_leave_the_momentum_finite() -> None:
    huge = np.full(SHAPE, 0.2 * MAX)
    kept = run_steps(Sgd(momentum=0.99, max_norm=0.0), [huge] * 9, [1e-9] * 9)
    assert kept["p.m"].max() == np.float32(MAX)
    assert np.isfinite(kept["p"]).all()


@pytest.mark.parametrize("optimizer", [Sgd, AdamW])
def test_params_without_decay(optimizer: type[Sgd] | type[AdamW]) -> None:
    zero = [np.zeros(SHAPE)]
    start = np.linspace(-1, 1, 15, dtype=np.float32).reshape(SHAPE)
    decayed = run_steps(optimizer(weight_decay=0.5), zero, [0.1])["p"]
    np.testing.assert_allclose(decayed, 0.95 * start, rtol=1e-6)
    exempt = optimizer(weight_decay=0.5, no_decay=("other", "p"))
    np.testing.assert_array_equal(run_steps(exempt, zero, [0.1])["p"], start)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"weight_decay": -1.0}, "decay"),
    ],
)
def test_options_out_of_range(options: dict[str, float], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        stepping(Sgd(**options))
