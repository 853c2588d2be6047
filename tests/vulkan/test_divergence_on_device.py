"""A training step on a Vulkan device, node by node against the ops' NumPy meanings."""

import numpy as np
import pytest
from bitgraph.backends.divergence import Report, Way, compare, on_backend
from bitgraph.backends.numpy.evaluate import apply
from bitgraph.backends.vulkan.backend import VulkanBackend
from bitgraph.backends.vulkan.lowering import RULES
from bitgraph.graph.ir import Graph
from bitgraph.graph.tensors import HostValue
from bitgraph.models.training.sample import sample_state
from graphs import training_graph
from tiny_model import batch_values, model_values, random_batch
from vulkan_cases import kernel_device


def device_against_reference() -> tuple[Graph, Report]:
    device = kernel_device()
    batch = random_batch([7, 5])
    graph = training_graph(len(batch.tokens))
    values: dict[str, HostValue] = {**model_values(), **batch_values(batch)}
    values |= {**sample_state(graph, 0), "lr": np.array(1e-3, np.float32)}
    values["step"] = np.array(1, np.int32)
    report = compare(Way(graph, apply), Way(graph, on_backend(VulkanBackend(device))), values)
    assert device.messages == []
    return graph, report


def test_every_node_of_a_step_is_right() -> None:
    graph, report = device_against_reference()
    assert report.wrong is None, report.wrong
    assert report.compared == sum(len(node.outputs) for node in graph.nodes)


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of two tensors are served by the kernel that adds."""
    monkeypatch.setitem(RULES, "mul", RULES["add"])
    graph, report = device_against_reference()
    products = [node for node in graph.nodes if node.op == "mul"]
    assert report.wrong is not None
    assert report.wrong.node == products[0]
    assert report.wrong_ops == {"mul": len(products)}
