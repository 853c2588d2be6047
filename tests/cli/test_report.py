"""What a run leaves for those who watch it: event files, the report, the picture."""

import json
import struct
from itertools import pairwise

import pytest
from bitgraph.cli.report.charts import smooth, thin_out, ticks
from bitgraph.cli.report.page import write_report
from bitgraph.models.training.tensorboard import FOLDER, TensorBoardLog
from chromium import dom_of
from runs import read_metrics

RUN = (
    "--backend", "numpy", "--rank", 4, "--batch-size", 3, "--max-seq-len", 256, "--lr", 1e-2,
    "--epochs", 8, "--eval-split", 0.34, "--eval-steps", 2,
)  # fmt: skip


@pytest.fixture
def run(bitgraph, model, data, tmp_path):
    def train(*options):
        out = tmp_path / "run"
        result = bitgraph("train", "--model", model, "--data", data, "--out", out, *RUN, *options)
        assert result.code == 0, result.err
        return out

    return train


def crc32c(data):
    """Castagnoli's CRC, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data, at):
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def message(data):
    """Fields of a protobuf message, by number."""
    found, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def events(folder):
    """Events of all files: TFRecords, whose checksums must hold."""
    for path in sorted((folder / FOLDER).iterdir()):
        data = path.read_bytes()
        while data:
            (size, head), body = struct.unpack("<QI", data[:12]), data[12:]
            assert head == masked(data[:8])
            assert struct.unpack("<I", body[size : size + 4]) == (masked(body[:size]),)
            yield message(body[:size])
            data = body[size + 4 :]


def scalars(folder):
    """(tag, step) -> value."""
    found = {}
    for event in events(folder):
        for summary in event.get(5, []):
            for value in message(summary)[1]:
                fields = message(value)
                step = event.get(2, [0])[0]
                found[fields[1][0].decode(), step] = struct.unpack("<f", fields[2][0])[0]
    return found


def test_event_files_hold_what_the_metrics_hold(run):
    out = run("--samples", 0)
    expected = {}
    for record in read_metrics(out):
        step = record.get("step")
        if record["event"] == "eval":
            expected["loss/eval", step] = record["loss"]
        if record["event"] == "step":
            expected["loss/train", step] = record["loss"]
            expected["learning_rate", step] = record["lr"]
            expected["grad_norm", step] = record["grad_norm"]
            expected["tokens_per_second", step] = record["tokens"] / record["seconds"]
            for number, norm in enumerate(record["layer_norms"]):
                expected[f"grad_norm_of_layers/{number:02d}", step] = norm
    found = scalars(out)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected)
    assert ("loss/eval", 0) in found
    assert next(events(out))[3] == [b"brain.Event:2"]


def test_a_resumed_run_tells_tensorboard_to_forget(tmp_path):
    for begin, loss in ((0, 1.0), (2, 3.0)):
        with TensorBoardLog(tmp_path, begin) as log:
            log.append({"event": "eval", "step": begin + 1, "loss": loss})
    restarts = [event[2] for event in events(tmp_path) if 7 in event]
    assert restarts == [[3]]
    assert scalars(tmp_path) == {("loss/eval", 1): 1.0, ("loss/eval", 3): 3.0}
    with TensorBoardLog(tmp_path) as log:
        log.append({"event": "eval", "step": 0, "loss": 5.0})
    assert scalars(tmp_path) == {("loss/eval", 0): 5.0}


def test_layer_norms_add_up_to_the_norm_and_change_nothing(run, tmp_path):
    out = run("--samples", 0)
    with_norms = [record for record in read_metrics(out) if record["event"] == "step"]
    for step in with_norms:
        assert len(step["layer_norms"]) > 1
        together = sum(norm**2 for norm in step["layer_norms"]) ** 0.5
        assert together == pytest.approx(step["grad_norm"], rel=1e-5)
    adapter = (out / "adapter_model.safetensors").read_bytes()
    run("--samples", 0, "--no-layer-norms", "--force")
    without = [record for record in read_metrics(out) if record["event"] == "step"]
    assert {tuple(step["layer_norms"]) for step in without} == {()}
    assert [step["loss"] for step in without] == [step["loss"] for step in with_norms]
    assert (out / "adapter_model.safetensors").read_bytes() == adapter


def test_the_report_is_whole_and_needs_nothing_else(bitgraph, run, tmp_path):
    out = run("--samples", 2)
    page = dom_of(out / "report.html", "", tmp_path / "profile")
    for title in ("Loss", "Learning rate", "Gradient norm by layer", "Lengths", "Samples", "Data"):
        assert f"{title}</h" in page
    assert "src=" not in page
    assert page.count('class="sample card"') == 2
    assert page.count('class="cell"') == 2 * 16  # layers times steps
    records = read_metrics(out)
    for sample in (record for record in records if record["event"] == "sample"):
        assert "What is" in sample["prompt"]
        assert sample["expected"] in {"cold", "down", "right", "out", "new", "small"}
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert bitgraph("report", out).code == 0
    assert (out / "report.html").read_bytes() == before


def test_samples_are_what_generation_says(bitgraph, run, model):
    out = run("--samples", 1)
    (sample,) = [record for record in read_metrics(out) if record["event"] == "sample"]
    question = sample["prompt"].split("Instruction:\n")[1].split("\n")[0]
    for key, adapter in (("before", ()), ("after", ("--lora", out))):
        result = bitgraph(
            "generate", "--model", model, "--backend", "numpy", "--template", "alpaca",
            "--max-tokens", 48, *adapter, question,
        )  # fmt: skip
        assert result.out.rstrip("\n") == sample[key].rstrip("\n")


def test_text_of_the_data_stays_text(run, tmp_path):
    out = run("--samples", 0)
    evil = {"event": "sample", "step": 1, "number": 1, "expected": "", "before": "", "after": ""}
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(evil | {"prompt": "<script>document.title = 'x'</script>"}) + "\n")
    assert write_report(out)
    assert "&lt;script&gt;" in (out / "report.html").read_text()


def test_no_report_of_no_run(bitgraph, tmp_path):
    result = bitgraph("report", tmp_path)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7.2), (1e-6, 2e-4), (5, 5), (0, 0)])
def test_ticks_enclose_a_range_in_equal_steps(low, high):
    found = ticks(low, high)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps))


def test_thinning_and_smoothing_keep_the_mean():
    points = [(float(x), float(x % 7)) for x in range(4000)]
    thin = thin_out(points)
    assert len(thin) == 400
    assert sum(y for _, y in thin) / 400 == pytest.approx(sum(y for _, y in points) / 4000)
    assert [y for _, y in smooth([(x, 2.5) for x, _ in points])] == pytest.approx([2.5] * 4000)
