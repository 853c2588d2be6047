"""Damaged adapters: reading ends in an equal adapter or in one sentence, never otherwise."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.adapters.peft import (
    CONFIG,
    WEIGHTS,
    LoraAdapter,
    initial_tensors,
    load_adapter,
    save_adapter,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHAPES = {"layers.0.self_attn.q_proj": (4, 6), "layers.1.mlp.up_proj": (8, 2)}
FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def saved() -> LoraAdapter:
    return LoraAdapter(2, 4.0, ("q_proj", "up_proj"), initial_tensors(SHAPES, 2, seed=0), "base")


@pytest.fixture(scope="module")
def folder(saved, tmp_path_factory) -> Path:
    save_adapter(tmp_path_factory.mktemp("adapter"), saved)
    return tmp_path_factory.getbasetemp() / "adapter0"


@contextmanager
def content(path: Path, data: bytes) -> Iterator[None]:
    """Put other bytes into a file for a while."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def load_or_sentence(folder: Path) -> LoraAdapter | None:
    """None after a refusal, which must be one line that names the folder."""
    try:
        return load_adapter(folder)
    except BitgraphError as error:
        sentence = str(error)
    assert str(folder) in sentence
    assert len(sentence.splitlines()) == 1
    return None


def flip(data: bytes, position: int, mask: int) -> bytes:
    position %= len(data)
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


POSITION, MASK = st.integers(0, 2**16), st.integers(1, 255)


@FUZZ
@given(position=POSITION, mask=MASK)
def test_one_changed_byte_in_the_tensors(folder, saved, position, mask):
    """The stored digest tells: what loads is what was saved."""
    path = folder / WEIGHTS
    with content(path, flip(path.read_bytes(), position, mask)):
        assert load_or_sentence(folder) in (None, saved)


@FUZZ
@given(position=POSITION, mask=MASK)
def test_one_changed_byte_in_the_config(folder, saved, position, mask):
    """Text for people to edit: a change that still makes sense shows in the settings alone."""
    path = folder / CONFIG
    with content(path, flip(path.read_bytes(), position, mask)):
        loaded = load_or_sentence(folder)
    if loaded is not None:
        assert loaded.rank == saved.rank
        settings_of_loaded = {
            name: getattr(loaded, name)
            for name in ("alpha", "target_modules", "base_model", "rslora")
        }
        assert loaded == replace(saved, **settings_of_loaded)


@FUZZ
@given(
    name=st.sampled_from([CONFIG, WEIGHTS]),
    flips=st.lists(st.tuples(POSITION, MASK), max_size=8),
    length=st.integers(0, 2**11),
    tail=st.binary(max_size=16),
)
def test_any_damage(folder, name, flips, length, tail):
    """Flips, truncation and garbage at the end together: no crash, no invalid adapter."""
    path = folder / name
    data = path.read_bytes()
    for position, mask in flips:
        data = flip(data, position, mask)
    with content(path, data[:length] + tail):
        loaded = load_or_sentence(folder)
    if loaded is not None:
        assert all(np.isfinite(tensor).all() for tensor in loaded.tensors.values())
        assert {tensor.shape for tensor in loaded.tensors.values()} == {
            (2, 6), (4, 2), (2, 2), (8, 2)
        }  # fmt: skip


@FUZZ
@given(length=st.integers(0, 2**11))
def test_every_truncation_of_the_tensors_is_refused(folder, length):
    path = folder / WEIGHTS
    data = path.read_bytes()
    with content(path, data[: length % len(data)]):
        assert load_or_sentence(folder) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@FUZZ
@given(data=st.data(), value=JSON)
def test_any_value_for_any_key_of_the_config(folder, saved, data, value):
    path = folder / CONFIG
    config = json.loads(path.read_text())
    extra = ["rank_pattern", "alpha_pattern", "layers_to_transform", "init_lora_weights", "unheard"]
    key = data.draw(st.sampled_from([*config, *extra]))
    with content(path, json.dumps(config | {key: value}).encode()):
        loaded = load_or_sentence(folder)
    if loaded is not None:
        assert loaded.modules == saved.modules


PART = st.sampled_from(["0", "²", "self_attn", "q_proj", "lora_A", "weight", ""])
MODULE = st.tuples(
    st.sampled_from(["layers", "layer", ""]),
    st.sampled_from(["0", "12", "²", "-1", "x"]),
    st.lists(PART, max_size=3).map(".".join),
).map(".".join)


@FUZZ
@given(
    modules=st.sets(MODULE | st.just("layers.0.q_proj"), min_size=1, max_size=2),
    dropped=st.integers(0, 9),
    added=st.none() | st.text(max_size=8),
)
def test_exactly_pairs_of_layer_modules_make_an_adapter(modules, dropped, added):
    pairs = {f"{module}.lora_{half}.weight" for module in modules for half in "AB"}
    names = set(sorted(pairs)[:dropped]) | ({added} if added is not None else set())
    valid = names == pairs
    for module in modules:
        layers, number, *path = module.split(".")
        valid = valid and layers == "layers" and number in ("0", "12")
        valid = valid and path != [] and all(part.isidentifier() for part in path)
    tensors = {name: np.ones((2, 2), np.float32) for name in names}
    try:
        found = set(LoraAdapter(2, 1.0, tuple(sorted(modules)), tensors).modules)
    except BitgraphError:
        found = None
    assert found == (modules if valid else None)


@settings(max_examples=30, deadline=None)
@given(
    rank=st.integers(1, 5),
    alpha=st.floats(min_value=0, exclude_min=True, max_value=1e300),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    base=st.text(max_size=20),
    rslora=st.booleans(),
    seed=st.integers(0, 2**64),
)
def test_any_valid_adapter_survives_a_round_trip(
    tmp_path_factory, rank, alpha, sizes, base, rslora, seed
):
    tensors = initial_tensors({"layers.3.mlp.gate_proj": sizes}, rank, seed)
    made = LoraAdapter(rank, alpha, ("gate_proj",), tensors, base, rslora)
    place = tmp_path_factory.mktemp("round_trip")
    save_adapter(place, made)
    assert load_adapter(place) == made
