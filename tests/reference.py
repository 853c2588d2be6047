"""What transformers and PEFT compute on a real ternary model, and our side of the comparison."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bitgraph.graph.ir import Graph
from bitgraph.graph.program import Backend
from bitgraph.models.bitnet.checkpoint import Checkpoint, load_checkpoint
from bitgraph.models.bitnet.forward import graph_weights, logits_graph, loss_graph
from bitgraph.models.data.batching import TokenBatch, from_padded
from bitgraph.passes.cleanup import EliminateDeadCode, MergeCommonSubexpressions
from bitgraph.passes.fuse.fuse import Fuse
from bitgraph.passes.grad import Grad
from bitgraph.passes.lora import Lora
from bitgraph.passes.manager import Pass, PassManager
from bitgraph.passes.optimizer import AdamW, initial_state
from bitgraph.passes.surrogate import Surrogate

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def reference() -> Iterator[Arrays]:
    path = SHARED / "reference" / "mini_ref.npz"
    if not path.exists():
        pytest.skip("needs ../shared/reference/mini_ref.npz (not part of the repository)")
    with np.load(path) as file:
        yield {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def mini() -> Checkpoint:
    path = SHARED / "models" / "mini" / "mini-i2_s.gguf"
    if not path.exists():
        pytest.skip("needs ../shared/models/mini/mini-i2_s.gguf (not part of the repository)")
    return load_checkpoint(path)


def batch(reference: Arrays, number: int) -> TokenBatch:
    return from_padded(reference[f"batch{number}|ids"], reference[f"batch{number}|labels"])


def mask(reference: Arrays, number: int) -> npt.NDArray[np.bool_]:
    return reference[f"batch{number}|mask"].reshape(-1) > 0


def feeds(graph: Graph, values: TokenBatch) -> Arrays:
    names = {item.value.name for item in graph.inputs}
    return {name: array for name, array in vars(values).items() if name in names}


def adapters(reference: Arrays) -> Arrays:
    prefix = "init|model."
    return {
        name.removeprefix(prefix): value
        for name, value in reference.items()
        if name.startswith(prefix)
    }


def smooth(mode: str) -> tuple[Pass, ...]:
    return (Surrogate(),) if mode == "smooth" else ()


def loaded(backend: Backend, mini: Checkpoint) -> Backend:
    """The backend with the model's weights."""
    backend.load(graph_weights(mini.config, mini.weights))
    return backend


def smooth_logits_error(backend: Backend, mini: Checkpoint, reference: Arrays) -> float:
    """Largest error of batch 0's logits over the largest logit, without the quantizer."""
    graph = PassManager((*smooth("smooth"), Fuse())).run(logits_graph(mini.config, 192))
    program = loaded(backend, mini).compile(graph)
    logits = program.run(feeds(graph, batch(reference, 0)))["logits"]
    wanted = reference["smooth|logits"].reshape(192, -1)
    error = np.abs(logits - wanted)[mask(reference, 0)].max()
    return float(error / np.abs(wanted).max())


def smooth_gradient_errors(
    backend: Backend, mini: Checkpoint, reference: Arrays
) -> tuple[float, dict[str, float]]:
    """Error of batch 0's loss, and of every adapter's gradient, relative to its norm."""
    passes = (Lora(8, 16.0), *smooth("smooth"), Grad(), EliminateDeadCode(), Fuse())
    graph = PassManager(passes).run(loss_graph(mini.config, 192))
    loaded(backend, mini).load(adapters(reference))
    results = backend.compile(graph).run(feeds(graph, batch(reference, 0)))
    errors = {}
    for name in adapters(reference):
        wanted = reference[f"smooth|grad|model.{name}"]
        error = np.linalg.norm(results[f"{name}.grad"] - wanted) / np.linalg.norm(wanted)
        errors[name] = float(error)
    return abs(float(results["loss"]) - float(reference["smooth|loss"])), errors


def train_ten_steps(
    backend: Backend, mini: Checkpoint, reference: Arrays, mode: str
) -> list[dict[str, npt.NDArray[Any]]]:
    """The reference's ten steps of AdamW; what each gave. The adapters stay in the backend."""
    passes = (
        Lora(8, 16.0), *smooth(mode), Grad(), AdamW(weight_decay=0.01, max_norm=1.0),
        MergeCommonSubexpressions(), EliminateDeadCode(), Fuse(),
    )  # fmt: skip
    graph = PassManager(passes).run(loss_graph(mini.config, 192))
    loaded(backend, mini)
    start = {
        name: value if "lora_A" in name else np.zeros_like(value)
        for name, value in adapters(reference).items()
    }
    backend.load({**start, **initial_state(AdamW(), start)})
    program = backend.compile(graph)
    results = []
    for step in range(1, 11):
        schedule = {"lr": np.array(2e-3, np.float32), "step": np.array(step, np.int32)}
        results.append(program.run({**feeds(graph, batch(reference, step)), **schedule}))
    return results
