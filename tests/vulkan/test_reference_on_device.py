"""The whole model on a Vulkan device against PyTorch's reference, on the smooth graph."""

import os

import numpy as np
import pytest
from bitgraph.backends.vulkan.backend import VulkanBackend
from bitgraph.models.bitnet.checkpoint import Checkpoint
from reference import (
    Arrays,
    mini,
    reference,
    smooth_gradient_errors,
    smooth_logits_error,
    train_ten_steps,
)
from vulkan_cases import kernel_device

__all__ = ["mini", "reference"]

slow_on_cpu = pytest.mark.skipif(
    os.environ.get("BITGRAPH_TEST_DEVICE", "lavapipe") == "lavapipe"
    and not os.environ.get("BITGRAPH_SLOW_TESTS"),
    reason="takes minutes on lavapipe: set BITGRAPH_SLOW_TESTS=1 or a GPU in BITGRAPH_TEST_DEVICE",
)


def test_smooth_logits(reference: Arrays, mini: Checkpoint) -> None:
    device = kernel_device()
    error = smooth_logits_error(VulkanBackend(device), mini, reference)
    print(f"logits: {error:.1e}")
    assert error <= 1e-4
    assert device.messages == []


@slow_on_cpu
def test_smooth_gradients(reference: Arrays, mini: Checkpoint) -> None:
    device = kernel_device()
    loss_error, errors = smooth_gradient_errors(VulkanBackend(device), mini, reference)
    print(f"loss: {loss_error:.1e}, gradients: {max(errors.values()):.1e}")
    assert loss_error <= 1e-4
    assert max(errors.values()) <= 1e-3
    assert device.messages == []


@slow_on_cpu
def test_ten_training_steps(reference: Arrays, mini: Checkpoint) -> None:
    device = kernel_device()
    backend = VulkanBackend(device)
    submitted = device.submissions
    results = train_ten_steps(backend, mini, reference, "smooth")
    losses = np.array([float(result["loss"]) for result in results])
    error = np.abs(losses - reference["smooth|train_loss"]).max()
    print(f"training losses: {error:.1e}, {device.submissions - submitted} submissions")
    assert error <= 1e-3
    assert device.messages == []
