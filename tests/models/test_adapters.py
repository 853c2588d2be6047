"""LoRA adapters: what is valid, what fits, what is written and what is refused."""

import errno
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.adapters.peft import (
    CONFIG,
    WEIGHTS,
    LoraAdapter,
    check_fits,
    initial_tensors,
    load_adapter,
    save_adapter,
)

PREFIX = "base_model.model.model."
Q, K, DOWN = "self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"
SHAPES = {
    f"layers.{layer}.{module}": shape
    for layer in (0, 1, 2, 10)
    for module, shape in ((Q, (12, 12)), (K, (4, 12)), (DOWN, (12, 20)))
}
SHORT = ("q_proj", "k_proj", "down_proj")


def tensors(seed=0, rank=3, shapes=SHAPES):
    """Like trained ones: B is not zero."""
    rng = np.random.default_rng(seed)
    start = initial_tensors(shapes, rank, seed)
    return {name: t + rng.normal(size=t.shape).astype(np.float32) for name, t in start.items()}


def adapter(seed=0, **changes):
    whole = LoraAdapter(3, 6.0, SHORT, tensors(seed), "some/base")
    return replace(whole, **changes)


def edit_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_tensors(folder, named):
    """What another program would write: no digest."""
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(named))


@pytest.fixture
def folder(tmp_path):
    save_adapter(tmp_path / "adapter", adapter())
    return tmp_path / "adapter"


def stored(folder):
    return {f"{PREFIX}{name}": t for name, t in load_adapter(folder).tensors.items()}


# The adapter in memory


def test_scaling():
    assert adapter().scaling == 2.0
    assert adapter(rslora=True).scaling == 6.0 / math.sqrt(3)


def test_modules_come_layer_by_layer():
    assert [m.split(".")[1] for m in adapter().modules[::3]] == ["0", "1", "2", "10"]


def test_equality_sees_every_field_and_every_bit():
    assert adapter() == adapter()
    assert adapter() != "an adapter"
    for change in (
        {"alpha": 5.0},
        {"target_modules": (*SHORT[1:], SHORT[0])},
        {"base_model": "other"},
        {"rslora": True},
        {"tensors": tensors(seed=1)},
    ):
        assert adapter() != adapter(**change)
    minus_zero = tensors()
    minus_zero[f"layers.0.{Q}.lora_A.weight"][0, 0] = 0.0
    plus = adapter(tensors={name: t.copy() for name, t in minus_zero.items()})
    minus_zero[f"layers.0.{Q}.lora_A.weight"][0, 0] = -0.0
    assert plus != adapter(tensors=minus_zero)


def test_contradictions_are_refused():
    a_name, b_name = f"layers.0.{Q}.lora_A.weight", f"layers.0.{Q}.lora_B.weight"
    good = tensors()

    def broken(**changed):
        return good | changed

    no_b = {name: t for name, t in good.items() if name != b_name}
    no_a = {name: t for name, t in good.items() if name != a_name}
    no_down = {name: t for name, t in good.items() if DOWN not in name}
    nan, inf = good[a_name].copy(), good[b_name].copy()
    nan[1, 2], inf[0, 0] = np.nan, -np.inf
    cases = [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 4}, "rank 4"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"tensors": {}}, "no tensors"),
        ({"tensors": no_b}, f"layers.0.{Q} has no lora_B"),
        ({"tensors": no_a}, f"layers.0.{Q} has no lora_A"),
        ({"tensors": no_down}, "no tensors for its target module 'down_proj'"),
        ({"tensors": broken(**{a_name: nan})}, f"{a_name} holds values that are not finite"),
        ({"tensors": broken(**{b_name: inf})}, f"{b_name} holds values that are not finite"),
        ({"tensors": broken(**{a_name: good[a_name].astype(np.float64)})}, "is float64"),
        ({"tensors": broken(**{a_name: good[a_name].T})}, r"shape \[12, 3\].*\[rank, in\]"),
        ({"tensors": broken(**{b_name: good[b_name].T})}, r"shape \[3, 12\].*\[out, rank\]"),
        ({"tensors": broken(**{a_name: good[a_name].ravel()})}, r"shape \[36\]"),
        ({"tensors": broken(**{a_name: good[a_name][:, :0]})}, r"shape \[3, 0\]"),
        ({"tensors": broken(**{"lm_head.lora_A.weight": good[a_name]})}, "'lm_head.lora_A"),
        ({"tensors": broken(**{a_name + "\n": good[a_name]})}, r"weight\\n' is not one of"),
        ({"target_modules": SHORT[:2]}, f"layers.0.{DOWN}, which its target modules do not name"),
        ({"target_modules": (*SHORT, "o_proj")}, "no tensors for its target module 'o_proj'"),
        ({"target_modules": (*SHORT, "")}, "no tensors for its target module ''"),
        ({"target_modules": ("proj",)}, "target modules do not name"),
    ]
    for change, message in cases:
        with pytest.raises(BitgraphError, match=message):
            adapter(**change)


# Fitting a model


def test_fits_its_model():
    check_fits(adapter(), SHAPES)
    check_fits(adapter(), SHAPES | {"layers.0.self_attn.o_proj": (12, 12)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (SHAPES | {f"layers.2.{K}": (8, 12)}, f"layers.2.{K} takes 12 features to 4.*12 to 8"),
        (SHAPES | {f"layers.0.{DOWN}": (12, 24)}, f"layers.0.{DOWN} takes 20 features to 12"),
        (
            {path: (o * 2, i * 2) for path, (o, i) in SHAPES.items()},
            "layers.0.mlp.down_proj takes 20",  # the first, whatever the order of the tensors
        ),
        (
            {path: shape for path, shape in SHAPES.items() if int(path.split(".")[1]) < 2},
            "the model has no layers.2.mlp.down_proj",
        ),
        (
            SHAPES | {f"layers.{layer}.{Q}": (12, 12) for layer in (12, 3)},
            f"no tensors for the model's layers.3.{Q}",
        ),
        ({}, "the model has no layers.0.mlp.down_proj"),
    ],
)
def test_another_model_is_refused(shapes, message):
    with pytest.raises(BitgraphError, match=f"{message}.*another model.*some/base"):
        check_fits(adapter(), shapes)


def test_modules_chosen_one_by_one_fit_without_the_others():
    paths = (f"layers.0.{Q}", f"model.layers.10.{Q}")
    chosen = {path: SHAPES[path.removeprefix("model.")] for path in paths[:1]}
    chosen[f"layers.10.{Q}"] = SHAPES[f"layers.10.{Q}"]
    check_fits(adapter(tensors=tensors(shapes=chosen), target_modules=paths), SHAPES)


# The start of training


def test_initial_tensors_follow_pefts_distribution():
    start = initial_tensors({"layers.0.mlp.up_proj": (3, 400)}, 64, seed=1)
    a, b = start["layers.0.mlp.up_proj.lora_A.weight"], start["layers.0.mlp.up_proj.lora_B.weight"]
    assert (a.shape, b.shape) == ((64, 400), (3, 64))
    assert a.dtype == b.dtype == np.float32
    assert not b.any()
    bound = 1 / math.sqrt(400)
    assert np.abs(a).max() <= bound
    quantiles = np.quantile(a, [0.01, 0.25, 0.5, 0.75, 0.99]) / bound
    np.testing.assert_allclose(quantiles, [-0.98, -0.5, 0.0, 0.5, 0.98], atol=0.03)
    rows = np.corrcoef(a)
    assert np.abs(rows - np.eye(64)).max() < 0.25


def test_initial_tensors_depend_on_seed_and_path_alone():
    whole = initial_tensors(SHAPES, 3, seed=7)
    again = initial_tensors(dict(reversed(SHAPES.items())), 3, seed=7)
    one = initial_tensors({f"layers.1.{Q}": (12, 12)}, 3, seed=7)
    other = initial_tensors(SHAPES, 3, seed=8)
    name = f"layers.1.{Q}.lora_A.weight"
    assert all(np.array_equal(whole[n], again[n]) for n in whole)
    assert np.array_equal(whole[name], one[name])
    assert not np.array_equal(whole[name], other[name])
    assert not np.array_equal(whole[name], whole[f"layers.2.{Q}.lora_A.weight"])


def test_initial_tensors_are_the_same_everywhere():
    """A NumPy whose generators changed would make runs with one seed differ: this tells."""
    a = initial_tensors({"layers.0.self_attn.q_proj": (4, 4)}, 1, seed=0)
    expected = [0.30924165, 0.4426241, -0.13784671, -0.18257004]
    np.testing.assert_array_equal(
        a["layers.0.self_attn.q_proj.lora_A.weight"], np.array([expected], np.float32)
    )


def test_initial_tensors_refuse_bad_numbers():
    with pytest.raises(BitgraphError, match="rank is 0"):
        initial_tensors(SHAPES, 0, seed=1)
    with pytest.raises(BitgraphError, match="seed is -1"):
        initial_tensors(SHAPES, 3, seed=-1)


# Writing and reading


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rslora": True, "base_model": "", "alpha": 0.1},
        {"base_model": 'Ünïcode "quotes"\n\ud800', "alpha": 1e38},
        {"target_modules": ("self_attn.q_proj", "k_proj", "mlp.down_proj")},
    ],
)
def test_round_trip_is_exact(tmp_path, changes):
    saved = adapter(**changes)
    save_adapter(tmp_path / "new" / "folder", saved)
    assert load_adapter(tmp_path / "new" / "folder") == saved


def test_transposed_views_are_written_as_they_read(tmp_path):
    views = {name: np.asfortranarray(t) for name, t in tensors().items()}
    save_adapter(tmp_path, adapter(tensors=views))
    assert load_adapter(tmp_path) == adapter()


def test_the_files_are_what_peft_expects(folder):
    config = json.loads((folder / CONFIG).read_text())
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "some/base",
        "r": 3,
        "lora_alpha": 6,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "modules_to_save": None,
    }
    with safetensors.safe_open(folder / WEIGHTS, "numpy") as file:
        assert set(file.keys()) == {PREFIX + name for name in tensors()}
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_saving_is_deterministic(tmp_path):
    written = set()
    for attempt in range(8):
        order = tensors() if attempt % 2 else dict(reversed(tensors().items()))
        save_adapter(tmp_path / str(attempt), adapter(tensors=order))
        written.add(
            tuple((tmp_path / str(attempt) / name).read_bytes() for name in (CONFIG, WEIGHTS))
        )
    assert len(written) == 1


def test_other_files_in_the_folder_stay(folder):
    (folder / "README.md").write_text("mine")
    save_adapter(folder, adapter(seed=1, alpha=12.0))
    assert (folder / "README.md").read_text() == "mine"
    assert load_adapter(folder) == adapter(seed=1, alpha=12.0)


def test_an_adapter_that_went_bad_is_not_saved(folder):
    bad = adapter(seed=1)
    bad.tensors[f"layers.0.{Q}.lora_A.weight"][0, 0] = np.nan
    with pytest.raises(BitgraphError, match="not finite"):
        save_adapter(folder, bad)
    assert load_adapter(folder) == adapter()


def to_bfloat16(values):
    """Truncate to the upper 16 bits: exact for what is representable."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_is_read_exactly(folder):
    """NumPy has no bfloat16, so the file is laid out by hand."""
    header, data, exact = {}, b"", {}
    for name, values in stored(folder).items():
        upper = to_bfloat16(values)
        exact[name.removeprefix(PREFIX)] = (upper.astype(np.uint32) << 16).view(np.float32)
        span = [len(data), len(data) + upper.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": span}
        data += upper.astype("<u2").tobytes()
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert load_adapter(folder) == adapter(tensors=exact)


def test_float16_is_read_exactly(folder):
    half = {name: t.astype(np.float16) for name, t in stored(folder).items()}
    half[f"{PREFIX}layers.0.{Q}.lora_A.weight"][0, :3] = [6e-8, -0.0, 65504]
    write_tensors(folder, half)
    exact = {name.removeprefix(PREFIX): t.astype(np.float32) for name, t in half.items()}
    assert load_adapter(folder) == adapter(tensors=exact)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint16])
def test_other_element_types_are_refused(folder, dtype):
    write_tensors(folder, {name: t.astype(dtype) for name, t in stored(folder).items()})
    with pytest.raises(BitgraphError, match="only F32, F16 and BF16"):
        load_adapter(folder)


@pytest.mark.parametrize(
    "selection",
    [
        {"target_modules": r".*layers\.0\.self_attn\.(q|k)_proj"},
        {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": 0},
        {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [0]},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.[^0].*"},
    ],
)
def test_selections_become_the_list_of_modules(folder, selection):
    first = {name: t for name, t in stored(folder).items() if "layers.0.self_attn" in name}
    write_tensors(folder, first)
    edit_config(folder, **selection)
    loaded = load_adapter(folder)
    assert loaded.target_modules == (f"layers.0.{K}", f"layers.0.{Q}")
    check_fits(loaded, SHAPES)


# Refusals when reading


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, r"DoRA \(use_dora\) is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"bias": ["none"]}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"rank_pattern": {"q_proj": 4}}, "with rank 4"),
        ({"rank_pattern": {"q_proj": 3.5}}, "rank_pattern gives 3.5 for q_proj"),
        ({"rank_pattern": {".*q_proj": 3}}, "only names of modules are supported"),
        ({"rank_pattern": {"o_proj": 3}}, "no tensors for its target module 'o_proj'"),
        ({"rank_pattern": [3]}, "must be an object"),
        ({"alpha_pattern": {"q_proj": -4}}, "alpha is -4.0, but must be a positive number"),
        ({"alpha_pattern": {"q_proj": True}}, "alpha_pattern gives True for q_proj"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"r": 4}, "with rank 4"),
        ({"r": -3}, "rank is -3"),
        ({"r": 3.0}, "r is 3.0"),
        ({"r": True}, "r is True"),
        ({"r": "3"}, "r is '3'"),
        ({"lora_alpha": 0}, "alpha is 0.0"),
        ({"lora_alpha": -1}, "alpha is -1.0"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": False}, "lora_alpha is False"),
        ({"lora_alpha": math.nan}, "alpha is nan"),
        ({"lora_alpha": math.inf}, "alpha is inf"),
        ({"lora_alpha": 10**400}, "alpha is inf"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"target_modules": {"q_proj": 1}}, "target_modules must be a list"),
        ({"target_modules": ["q_proj", 3]}, "target_modules must be a list"),
        ({"target_modules": ["q_proj"]}, "target modules do not name"),
        ({"target_modules": [*SHORT, "o_proj"]}, "no tensors for its target module 'o_proj'"),
    ],
)
def test_configs_are_refused(folder, change, message):
    edit_config(folder, **change)
    with pytest.raises(BitgraphError, match=message) as caught:
        load_adapter(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}"],
)
def test_broken_configs_are_refused(folder, text):
    (folder / CONFIG).write_bytes(text)
    with pytest.raises(BitgraphError, match=f"{CONFIG}.*restore the file"):
        load_adapter(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(BitgraphError, match=f"nowhere.{CONFIG} is missing"):
        load_adapter(tmp_path / "nowhere")
    with pytest.raises(BitgraphError, match="is missing; name the folder"):
        load_adapter(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BitgraphError, match=f"{WEIGHTS} is missing; copy the whole folder"):
        load_adapter(folder)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(BitgraphError, match=f"{WEIGHTS} is missing.*safe_serialization"):
        load_adapter(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(BitgraphError, match="could not be read"):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.lm_head.lora_A.weight", "'base_model.model.lm_head"),
        (f"{PREFIX}embed_tokens.lora_embedding_A", "'embed_tokens.lora_embedding_A'"),
        (f"{PREFIX}layers.0.{Q}.lora_magnitude_vector", "lora_magnitude_vector"),
        (f"{PREFIX}layers.0.{Q}.lora_A.default.weight", "lora_A.default.weight"),
        (f"layers.0.{Q}.lora_A.weight", f"'layers.0.{Q}.lora_A.weight'"),
    ],
)
def test_unknown_tensors_are_refused(folder, name, message):
    write_tensors(folder, stored(folder) | {name: np.ones((3, 12), np.float32)})
    with pytest.raises(BitgraphError, match=message):
        load_adapter(folder)


def test_half_a_pair_is_refused(folder):
    whole = stored(folder)
    whole.pop(f"{PREFIX}layers.2.{K}.lora_B.weight")
    write_tensors(folder, whole)
    with pytest.raises(BitgraphError, match=f"layers.2.{K} has no lora_B"):
        load_adapter(folder)


def header(length, text):
    return struct.pack("<Q", length) + text


def claim(**entry):
    name = f"{PREFIX}layers.0.{Q}.lora_A.weight"
    text = json.dumps({name: {"dtype": "F32", "data_offsets": [0, 0], **entry}}).encode()
    return header(len(text), text)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        header(0, b""),
        header(2**64 - 1, b"{}"),
        header(2**40, b"{}"),
        header(3, b"{}"),
        header(1, b"{}"),
        header(100_000, b"[" * 100_000),
        claim(shape=[2**40, 2**40]),
        claim(shape=[0, 2**62]),
        claim(shape=[0] * 70),
        claim(shape=[]),
        claim(shape=[3, 12]),
        claim(shape=[3, 12], data_offsets=[0, 144]),
        claim(shape=[3, 12], data_offsets=[144, 0]),
        claim(shape=[1, 1], data_offsets=[0, 4]) + b"12345",
    ],
)
def test_lying_tensor_files_are_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(BitgraphError, match=WEIGHTS) as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)


def test_a_changed_value_is_noticed(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-3] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BitgraphError, match="not those that were saved"):
        load_adapter(folder)


# Saving over an older adapter

CRASHES = """
import json, os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_adapters import adapter
from bitgraph.models.adapters.peft import save_adapter

root, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
left, armed = 0, False

def die_after_some_steps(event, args):
    global left
    if armed and event in ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod"):
        if left == 0:
            os._exit(9)
        left -= 1

sys.addaudithook(die_after_some_steps)
code = 9
while code == 9:
    folder = root / str(left)
    save_adapter(folder, adapter())
    child = os.fork()
    if child == 0:
        armed = True
        save_adapter(folder, adapter(seed=1, **changes))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left += 1
sys.exit(code)
"""


def what_is_left(folder, old, new):
    if not (folder / CONFIG).exists():
        with pytest.raises(BitgraphError, match=f"{CONFIG} is missing"):
            load_adapter(folder)
        return "none"
    loaded = load_adapter(folder)
    assert loaded in (old, new)
    return "old" if loaded == old else "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("changes", [{}, {"alpha": 12.0, "base_model": "other"}])
def test_a_crash_never_mixes_two_adapters(tmp_path, changes):
    """The process dies before each operation on the file system in turn; no cleanup runs."""
    search = [str(Path(__file__).parent)]
    command = [sys.executable, "-c", CRASHES, str(tmp_path), json.dumps(changes), *search]
    subprocess.run(command, check=True, timeout=60)
    steps = range(len(list(tmp_path.iterdir())))
    new = adapter(seed=1, **changes)
    outcomes = [what_is_left(tmp_path / str(step), adapter(), new) for step in steps]
    assert len(outcomes) > 5
    assert (outcomes[0], outcomes[-1]) == ("old", "new")
    assert outcomes == sorted(outcomes, key=["old", "none", "new"].index)
    assert ("none" in outcomes) == bool(changes)


@pytest.mark.parametrize("changes", [{}, {"alpha": 12.0}])
def test_a_full_disk_leaves_the_old_adapter(folder, monkeypatch, changes):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BitgraphError, match="No space left on device"):
            save_adapter(folder, adapter(seed=1, **changes))
    assert load_adapter(folder) == adapter()
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_places_that_cannot_be_written_are_named(tmp_path, folder):
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(BitgraphError, match="could not be made"):
            save_adapter(place, adapter())
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    with pytest.raises(BitgraphError, match="could not be written"):
        save_adapter(folder, adapter(seed=1))
