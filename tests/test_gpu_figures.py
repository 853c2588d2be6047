"""The script that runs every figure of a GPU, on a device that is none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitgraph.backends.vulkan.info import DeviceInfo

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_figures.py"


def figures(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    given = ("--preset", "tiny", "--device", "lavapipe", "--out", str(out), *options)
    return subprocess.run(
        [sys.executable, str(SCRIPT), *given], capture_output=True, text=True, check=False
    )


def test_a_figure_leaves_its_output_and_its_numbers(lavapipe: "DeviceInfo", tmp_path: Path) -> None:
    done = figures(tmp_path, "--only", "decode")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("decode: done after ")
    results = json.loads((tmp_path / "decode.json").read_text())["results"]
    assert {result["lora"] for result in results} == {False, True}
    assert "tokens/s" in (tmp_path / "decode.txt").read_text()


def test_what_fails_or_has_no_time_left_is_said(tmp_path: Path) -> None:
    done = figures(tmp_path, "--only", "train-1", "--seconds", "0")
    assert done.returncode == 1
    assert done.stdout.startswith("train-1: failed (no time left)")
