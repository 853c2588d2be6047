"""A disk that is full from some moment of a run on: what was good stays, and the run can go on."""

import errno
import os
import re
from pathlib import Path

import pytest
from bitgraph.models.adapters.peft import load_adapter
from bitgraph.models.files import PARTIAL
from bitgraph.models.training.checkpoints import checkpoint_folders, read_checkpoint
from runs import files_of, results, without_times

MOMENTS = [
    ("config.toml", 1),
    ("metrics.jsonl", 1),
    ("metrics.jsonl", 9),
    ("tensorboard/", 1),
    ("tensorboard/", 5),
    ("best/adapter_config.json", 1),
    ("best/adapter_model.safetensors", 2),
    ("checkpoints/adapter_config.json", 1),
    ("checkpoints/adapter_model.safetensors", 2),
    ("checkpoints/optimizer.safetensors", 2),
    ("checkpoints/run.json", 1),
    ("adapter_config.json", 1),
    ("adapter_model.safetensors", 1),
    ("report.html", 1),
    ("loss.png", 1),
]
"""Files, and the time they are written from which on there is no space."""


class Disk:
    """Counts what is brought to disk below a folder, and has no space from some moment on."""

    def __init__(self, folder, sync):
        self.folder, self.sync = folder, sync
        self.written: list[str] = []
        self.full_at: tuple[str, int] | None = None

    def fsync(self, descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file() and path.is_relative_to(self.folder):
            name = str(path.relative_to(self.folder))
            if self.is_full(name):
                if name.endswith(PARTIAL):
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.written.append(name)
        return self.sync(descriptor)

    def is_full(self, name):
        if self.full_at is None:
            return False
        kind, number = self.full_at
        before = [kind_of(each) for each in self.written].count(kind)
        if kind_of(name) == kind and before == number - 1:
            self.full_at = ("", 1)  # for everything from now on
        return self.full_at == ("", 1)


def kind_of(name):
    """A file of `MOMENTS`, whatever the step, the process or the temporary name."""
    name = re.sub(
        r"(^|/)\.([^/]*\.(?:json|jsonl|toml|safetensors|html|png))\.[^/]*$", r"\1\2", name
    )
    name = re.sub(r"step-[0-9]+(\.partial)?/", "", name)
    return "tensorboard/" if name.startswith("tensorboard/") else name


@pytest.fixture
def disk(tmp_path, monkeypatch):
    disk = Disk(tmp_path / "run", os.fsync)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    return disk


@pytest.fixture(scope="session")
def whole(small_run, tmp_path_factory):
    """The folder of a run that had space."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def train(bitgraph, small_run, whole):
    def run(out, *options):
        return bitgraph(*small_run("numpy", out), "--epochs", 2, *options)

    if not whole.exists():
        assert run(whole).code == 0
    return run


def newest_on_disk(written):
    """The step of the last checkpoint of which all is written."""
    done = [name for name in written if kind_of(name) == "checkpoints/run.json"]
    return max((int(re.findall(r"step-([0-9]+)", name)[0]) for name in done), default=0)


def load_tensors(folder):
    return load_adapter(folder).tensors


def test_every_kind_of_file_is_known(train, disk):
    assert train(disk.folder).code == 0
    assert {kind_of(name) for name in disk.written} == {kind for kind, _ in MOMENTS}


@pytest.mark.parametrize(("kind", "number"), MOMENTS)
def test_the_last_good_checkpoint_stays_and_the_run_goes_on(
    train, disk, whole, tmp_path, kind, number
):
    disk.full_at = (kind, number)
    result = train(disk.folder)
    report_only = kind in ("report.html", "loss.png")
    assert result.code == (0 if report_only else 2), result.err
    assert "Traceback" not in result.err
    last = result.err.splitlines()[-1]
    assert re.fullmatch(r".*could not be written \(No space left on device\); free some.*", last)
    left = files_of(disk.folder) if disk.folder.exists() else {}
    assert not [name for name in left if PARTIAL in name]
    folders = checkpoint_folders(disk.folder)
    steps = [read_checkpoint(folder, load_tensors).progress.step for folder in folders]
    assert max(steps, default=0) == newest_on_disk(disk.written)
    for place in (disk.folder, disk.folder / "best"):
        if (place / "adapter_config.json").exists():
            load_adapter(place)

    disk.full_at = None
    again = train(disk.folder, "--resume")
    assert again.code == 0, again.err
    assert results(disk.folder) == results(whole)
    assert without_times(disk.folder) == without_times(whole)
    assert (disk.folder / "report.html").exists()


BROKEN = {
    "other data": ("--data", "{bad}"),
    "other held-out data": ("--eval-data", "{bad}"),
    "data that is not there": ("--data", "{bad}/none.json"),
    "another model": ("--model", "{bad}"),
    "too long a context": ("--max-seq-len", 100_000),
    "too little memory": ("--memory-budget", "1KiB"),
    "no such device": ("--backend", "vulkan", "--device", "no such device"),
    "not an option's value": ("--rank", 0),
}


@pytest.mark.parametrize("what", BROKEN)
def test_force_replaces_nothing_before_it_can_train(train, tmp_path, what):
    out, bad = tmp_path / "run", tmp_path / "bad.json"
    bad.write_text('[{"text": 3}]')
    assert train(out, "--max-steps", 2).code == 0
    (out / "notes.txt").write_text("mine")
    before = files_of(out)
    options = (str(option).replace("{bad}", str(bad)) for option in BROKEN[what])
    result = train(out, "--force", *options)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("bitgraph: ")
    assert files_of(out) == before
