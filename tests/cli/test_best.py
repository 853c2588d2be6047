"""Early stopping, the best adapter, --keep and --eval-steps, with losses that are planted."""

import pytest
from bitgraph.models.adapters.peft import load_adapter
from bitgraph.models.training.trainer import Trainer
from runs import read_metrics

LOSSES = [9.0, 5.0, 4.0, 4.0, 4.5, 3.9, 3.8, 4.1, 4.2, 4.3, 1.0]
"""Behind step 0, 1, 2 and so on; the fourth is no better, for it is not smaller."""


@pytest.fixture
def run(bitgraph, small_run, monkeypatch, tmp_path):
    """A run of twelve steps with an evaluation behind each; how it ended, and the adapters then."""

    def train(*options):
        adapters = []

        def evaluate(self, examples):
            adapters.append((self.steps_done, self.tensors()))
            return LOSSES[self.steps_done] if self.steps_done < len(LOSSES) else 8.0

        monkeypatch.setattr(Trainer, "evaluate", evaluate)
        result = bitgraph(*small_run("numpy", tmp_path / "run"), "--eval-steps", 1, *options)
        assert result.code == 0, result.err
        return result, dict(adapters)

    return train


def evaluations(folder):
    records = [r for r in read_metrics(folder) if r["event"] == "eval"]
    return [(r["step"], r["loss"], r["best"]) for r in records]


def steps_of_checkpoints(folder):
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").iterdir())


def assert_same(folder, tensors):
    saved = load_adapter(folder).tensors
    assert {name: t.tobytes() for name, t in saved.items()} == {
        name: t.tobytes() for name, t in tensors.items()
    }


@pytest.mark.parametrize(
    ("patience", "last", "best"), [(1, 3, 2), (2, 4, 2), (3, 9, 6), (4, 12, 10), (0, 12, 10)]
)
def test_a_run_ends_when_evaluations_get_no_better(run, tmp_path, patience, last, best):
    result, adapters = run("--patience", patience)
    folder = tmp_path / "run"
    smallest = float("inf")
    for step, loss, marked in evaluations(folder):
        assert loss == (LOSSES[step] if step < len(LOSSES) else 8.0)
        assert marked == (loss < smallest)
        smallest = min(smallest, loss)
    assert [step for step, _, _ in evaluations(folder)] == list(range(last + 1))
    assert_same(folder / "best", adapters[best])
    assert_same(folder, adapters[last])
    assert f"behind step {best}" in result.err
    early = f"ended early, as {patience} evaluations gave no smaller loss"
    assert (early in result.err) == (last < 12)
    assert steps_of_checkpoints(folder)[-1] == last


def test_patience_goes_on_counting_after_a_resume(run, bitgraph, small_run, tmp_path):
    """The run ends behind step 9, as 7, 8 and 9 are no better than 6."""
    run("--patience", 3)
    whole = evaluations(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert steps_of_checkpoints(tmp_path / "run") == [8, 9]
    for path in (folder / "step-00000009").iterdir():
        path.unlink()
    (folder / "step-00000009").rmdir()  # as if it was killed before
    run("--patience", 3, "--resume")
    assert evaluations(tmp_path / "run") == whole


@pytest.mark.parametrize(("every", "wanted"), [(5, [0, 5, 10, 12]), (0, [0, 12]), (12, [0, 12])])
def test_evaluations_come_as_often_as_asked(run, tmp_path, every, wanted):
    run("--eval-steps", every)
    assert [step for step, _, _ in evaluations(tmp_path / "run")] == wanted


@pytest.mark.parametrize(
    ("keep", "every", "wanted"), [(1, 5, [12]), (2, 5, [10, 12]), (9, 5, [5, 10, 12])]
)
def test_so_many_checkpoints_are_kept(run, tmp_path, keep, every, wanted):
    run("--keep", keep, "--save-steps", every)
    assert steps_of_checkpoints(tmp_path / "run") == wanted
