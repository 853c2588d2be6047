"""`bitgraph bench` on a device: profiles, single kernels, and how much work they are said to do."""

import dataclasses
import time

import numpy as np
import pytest
from bitgraph.backends.vulkan.limits import KNOWN_LIMITS
from bitgraph.backends.vulkan.plan import make_plan
from bitgraph.cli.bench import kernel_times, single
from bitgraph.cli.bench.ceilings import CEILINGS, ceilings_of
from bitgraph.cli.bench.kernel_times import profile_decoding, profile_training, table
from bitgraph.cli.bench.measure import measure_decoding, measure_training
from bitgraph.cli.bench.single import case_graph, cases, measure_kernels
from bitgraph.cli.bench.start import PARTS, VULKAN_PARTS, measure_start
from bitgraph.cli.bench.work import Work, bytes_of, operations_of, shape_of, work_of
from bitgraph.graph.ops.fused import FUSED, body_of
from bitgraph.graph.text import parse_graph
from bitgraph.models.bitnet.forward import loss_graph
from bitgraph.models.bitnet.presets import preset_config, write_random_model
from bitgraph.models.training.options import TrainingOptions
from bitgraph.passes.manager import PassManager

H100 = CEILINGS["NVIDIA H100"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_random_model(path, preset_config("tiny", num_hidden_layers=1), seed=0)
    return path


@pytest.fixture(scope="module")
def step():
    """A fused training step of 2B-4T with two layers, for 2,048 tokens, planned for an H100."""
    config = preset_config("2b-4t", num_hidden_layers=2)
    graph = loss_graph(config, 2048)
    graph = dataclasses.replace(graph, outputs=(graph.output("loss"),))
    joint = PassManager(TrainingOptions().joint_passes()).run(graph)
    fused = PassManager(TrainingOptions().training_passes()).run(graph)
    return config, joint, fused, make_plan(fused, KNOWN_LIMITS["h100"]).schedule


def test_operations_of_a_step_are_those_of_its_matrices(step):
    """Counted by hand: forward and dX of every projection but the first layer's dX to nothing,
    the head three times, adapters, attention."""
    config, _, fused, _ = step
    tokens, rank = 2048, 16
    hidden, wide, kv = config.hidden_size, config.intermediate_size, 5 * 128
    matrices = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden)]
    matrices += [(wide, hidden), (wide, hidden), (hidden, wide)]
    forward = sum(2 * tokens * a * b for a, b in matrices)
    # Forward A and B, the gradients of A and B, and dX through both.
    adapters = sum(3 * 2 * tokens * rank * (a + b) for a, b in matrices)
    attention = 3.5 * 2 * tokens * tokens * hidden
    head = 3 * 2 * tokens * hidden * config.vocab_size
    layers = config.num_hidden_layers
    whole = layers * (2 * forward + adapters + attention) + head
    found = sum(operations_of(node)[0] for node in fused.nodes)
    # What nothing needs is not computed: dX into the embedding, through W and through A.
    first = sum(2 * tokens * b * (a + rank) for a, b in matrices[:3])
    assert found == pytest.approx(whole - first, rel=1e-9)


def test_fusion_changes_no_operations(step):
    _, joint, fused, _ = step
    assert sum(operations_of(n)[0] for n in joint.nodes) == pytest.approx(
        sum(operations_of(n)[0] for n in fused.nodes)
    )


def test_work_is_shared_by_the_dispatches_of_a_node(step):
    _, _, fused, schedule = step
    rng = np.random.default_rng(0)
    seconds = rng.uniform(1e-6, 1e-3, len(schedule.dispatches)).tolist()
    works = work_of(fused, schedule.dispatches, seconds, keys=None)
    total = sum(operations_of(node)[0] for node in fused.nodes)
    assert sum(work.operations for work in works) == pytest.approx(total)
    helpers = [
        work
        for work, d in zip(works, schedule.dispatches, strict=True)
        if d.kernel.startswith(("row_power", "labelled_rows", "attention_share"))
    ]
    assert helpers
    assert not any(work.operations for work in helpers)
    rows = table(fused, schedule.dispatches, seconds, None, H100)
    assert sum(row.seconds for row in rows) == pytest.approx(sum(seconds))
    assert sum(row.count for row in rows) == len(schedule.dispatches)
    assert {row.scope for row in rows} >= {"layers.*/mlp", "layers.*/self_attn/grad"}


def test_attention_counts_the_keys_that_are_seen():
    graph = parse_graph(
        """
        graph @g {
          input %q: f32[8,2,4]
          input %k: f32[8,1,4]
          input %v: f32[8,1,4]
          input %first: i32[8]
          input %last: i32[8]
          %o: f32[8,2,4], %lse: f32[8,2] = attention(%q, %k, %v, %first, %last)
          return %o
        }
        """
    )
    (node,) = graph.nodes
    # Two products of 8 queries of 2 heads with so many keys, 4 wide.
    assert operations_of(node, keys=3.0)[0] == 2 * 2 * 8 * 2 * 3 * 4
    assert shape_of(node) == "8x8 keys, 2 heads of 4"


def test_a_gather_moves_the_rows_that_it_reads(step):
    _, _, _, schedule = step
    (gather,) = [d for d in schedule.dispatches if d.kernel == "gather_rows_f16"]
    assert bytes_of(gather) == 2 * 2048 * 2560 * 4


def test_ceilings():
    assert ceilings_of("NVIDIA H100 80GB HBM3") is H100
    assert ceilings_of("llvmpipe (LLVM 15.0.6, 256 bits)") is None
    # A second of each kind of work.
    assert H100.seconds(Work(operations=612e12)) == pytest.approx(1)
    assert H100.seconds(Work(operations=1243e12, on_codes=True)) == pytest.approx(1)
    assert H100.seconds(Work(operations=1.0, bytes=3.1e12)) == pytest.approx(1)
    rate, unit = kernel_times.rate_of(Work(1e12, True, 1e6), 2.0, H100)
    assert (rate, unit) == (0.5e12, "TOP/s")
    rate, unit = kernel_times.rate_of(Work(1e6, False, 1e12), 2.0, None)
    assert (rate, unit) == (0.5e12, "GB/s")


def test_the_cases_are_those_of_a_2b_model():
    found = {case.name: case for case in cases(preset_config("2b-4t"), 4096)}
    shapes = {}
    for name, case in found.items():
        graph, labels = case_graph(case)
        assert len(labels) == case.copies
        shapes[name] = shape_of(graph.nodes[0])
        weights = sum(
            v.type.nbytes for v in {n.inputs[case.weight] for n in graph.nodes if n.op == case.op}
        )
        assert weights >= single.CACHE
    assert shapes["gate forward"] == "4096x6912x2560"
    assert shapes["gate dX"] == "4096x2560x6912"
    assert shapes["gate of one row"] == "1x6912x2560"
    assert shapes["head of one row"] == "1x128256x2560"


def test_single_kernels(lavapipe, model, monkeypatch):
    monkeypatch.setattr(single, "CACHE", 1)
    found = measure_kernels(str(model), "lavapipe", rows=40, rounds=2, only="gate")
    forward, backward, one, in_a_row = found["kernels"]
    assert forward["kernels"] == ["ternary_matmul_dot"]
    assert forward["shape"] == "40x256x128"
    assert "ternary_matmul_t" in backward["kernels"]
    assert one["kernels"] == in_a_row["kernels"] == ["ternary_matvec+dot+shuffled"]
    assert all(case["seconds"] > 0 and case["roofline"] is None for case in found["kernels"])


def test_profiles_hold_every_dispatch(lavapipe, model, monkeypatch):
    monkeypatch.setattr(kernel_times, "PROFILED", 1)
    found = profile_training(str(model), "lavapipe", batch=1, length=12)
    (profile,) = found["profiles"]
    assert profile["name"] == "bitnet_loss"
    assert sum(row["count"] for row in profile["rows"]) == profile["dispatches"]
    assert sum(row["seconds"] for row in profile["rows"]) == pytest.approx(profile["seconds"])
    assert {"attention", "products", "loss_and_gradient"} <= {r["op"] for r in profile["rows"]}
    found = profile_decoding(str(model), "lavapipe", lora=True, prompt=4)
    assert [p["name"] for p in found["profiles"]] == ["bitnet_prompt", "bitnet_decode"]


def test_the_first_step_and_its_parts(lavapipe, model):
    found = measure_start(time.time(), str(model), "vulkan", "lavapipe", batch=1, length=12)
    assert {name for name, _, _ in PARTS + VULKAN_PARTS} <= found["parts"].keys()
    assert all(seconds > 0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"], rel=0.05, abs=0.05)


def test_whole_jobs(lavapipe, model):
    found = measure_training(str(model), "vulkan", "lavapipe", batch=1, length=12, steps=2)
    assert found["side"] == "vulkan"
    assert found["submissions_per_step"] == 1
    assert 0 < found["memory_predicted"] <= found["memory_allocated"]
    assert found["dispatches"] > found["barriers"] > 0
    found = measure_decoding(str(model), "vulkan", "lavapipe", True, 4, 17, 1)
    assert found["submissions_per_token"] == pytest.approx(1 / 16)
    assert found["tokens_per_second"] > 0


def test_the_fused_nodes_of_a_step_hold_products(step):
    """What `operations_of` opens is there."""
    _, _, fused, _ = step
    patterns = {n.attributes["pattern"] for n in fused.nodes if n.op == FUSED and body_of(n).nodes}
    assert {"products", "product_gradients", "weight_gradients"} <= patterns
