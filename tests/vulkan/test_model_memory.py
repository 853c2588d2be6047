"""Memory of whole models, planned without a device: within 3% of what is alive at once."""

import time
from collections.abc import Callable
from functools import cache

import pytest
from bitgraph.backends.vulkan.limits import KNOWN_LIMITS
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.graph.ir import Graph
from bitgraph.models.bitnet.cached import generation_passes
from bitgraph.models.bitnet.config import BitNetConfig
from bitgraph.models.bitnet.forward import decode_graph, logits_graph, loss_graph, prompt_graph
from bitgraph.models.bitnet.presets import PRESETS
from bitgraph.models.training.options import TrainingOptions
from bitgraph.passes.manager import PassManager
from vulkan_cases import device_limits, kernel_device


def training(config: BitNetConfig, tokens: int) -> Graph:
    return PassManager(TrainingOptions().training_passes()).run(loss_graph(config, tokens))


def evaluation(config: BitNetConfig, tokens: int) -> Graph:
    return PassManager(TrainingOptions().evaluation_passes()).run(loss_graph(config, tokens))


def prompt(config: BitNetConfig, tokens: int) -> Graph:
    graph = prompt_graph(config, tokens, config.max_position_embeddings)
    return PassManager(generation_passes(config, None)).run(graph)


def decode(config: BitNetConfig, tokens: int) -> Graph:
    graph = decode_graph(config, config.max_position_embeddings)
    return PassManager(generation_passes(config, None)).run(graph)


GRAPHS = [training, evaluation, logits_graph, loss_graph, prompt, decode]


@cache
def graph_of(build: Callable[[BitNetConfig, int], Graph], preset: str, tokens: int) -> Graph:
    return build(PRESETS[preset], tokens)


@pytest.mark.parametrize("limits", KNOWN_LIMITS)
@pytest.mark.parametrize(("preset", "tokens"), [("tiny", 128), ("tiny", 384), ("2b-4t", 2048)])
@pytest.mark.parametrize("build", GRAPHS)
def test_arenas_are_near_the_lower_bound(
    build: Callable[[BitNetConfig, int], Graph], preset: str, tokens: int, limits: str
) -> None:
    plan = make_plan(graph_of(build, preset, tokens), KNOWN_LIMITS[limits])
    assert 0 < plan.lower_bound <= plan.arena_bytes <= 1.03 * plan.lower_bound


@pytest.mark.parametrize(("name", "part"), [("lavapipe", "llvmpipe"), ("h100", "H100")])
def test_a_device_has_the_limits_that_are_known_of_it(name: str, part: str) -> None:
    device = kernel_device()
    if part not in device.info.name:
        pytest.skip(f"needs a device named {part}: name it in BITGRAPH_TEST_DEVICE")
    known, real = KNOWN_LIMITS[name], device_limits()
    assert known.max_range <= real.max_range
    assert known.max_allocation <= real.max_allocation
    assert known.alignment % real.alignment == 0
    assert known.max_groups <= real.max_groups
    assert known.shared_memory <= real.shared_memory
    assert known.subgroup == real.subgroup
    assert known.bindings <= real.bindings
    assert known.invocations <= real.invocations
    assert known.features <= real.features


def test_a_training_step_of_2b_is_planned_in_two_seconds() -> None:
    graph = graph_of(training, "2b-4t", 2048)
    seconds = []
    for _ in range(2):  # the better of two, as the machine may be busy
        begin = time.process_time()
        make_plan(graph, KNOWN_LIMITS["h100"])
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 2
