"""The long run notices what it is there for."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "long_run.py"


@pytest.fixture(scope="module")
def long_run():
    return runpy.run_path(str(SCRIPT))


def run(host=0, device=0, digest="a"):
    """A run whose memory grows by so many bytes at its end."""
    memory = [[k, 100 << 20, 1 << 20] for k in range(10)]
    memory[-1] = [10, (100 << 20) + host, (1 << 20) + device]
    part = {"digest": digest, "memory": memory}
    return {"train": part, "decode": {"digest": "d", "memory": memory[:2]}}


def test_growth_is_found(long_run):
    growth = long_run["growth"]
    assert list(growth(run(host=1 << 20))) == []
    assert list(growth(run(host=8 << 20))) == ["train: memory of the host grew by 8.0 MiB"]
    assert list(growth(run(device=1 << 18))) == ["train: memory of the device grew by 0.2 MiB"]


def test_drift_is_found(long_run):
    differences = long_run["differences"]
    assert list(differences(run(), run())) == []
    assert list(differences(run(), run(digest="b"))) == ["train: the two runs differ"]


def test_a_run_on_the_cpu(long_run, tmp_path, monkeypatch):
    monkeypatch.setenv("BITGRAPH_CACHE", str(tmp_path))
    options = {"model": None, "preset": "tiny", "backend": "numpy", "device": None}
    sizes = {"batch": 1, "length": 12, "steps": 3, "tokens": 200}
    first, second = (long_run["run_once"](**options, validation=False, **sizes) for _ in range(2))
    assert list(long_run["differences"](first, second)) == []
    assert first["train"]["done"] == 3
    assert first["decode"]["done"] >= 200
    other = long_run["run_once"](**options, validation=False, **{**sizes, "steps": 2})
    assert list(long_run["differences"](first, other)) == ["train: the two runs differ"]
