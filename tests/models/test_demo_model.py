"""The model that comes along: found by its name, small, and able to do what its card says."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.models.bitnet.checkpoint import DEMO, load_checkpoint, located
from bitgraph.models.bitnet.presets import preset_config
from bitgraph.models.bitnet.tokenizer import Tokenizer
from bitgraph.models.corpus.corpus import make_corpus
from bitgraph.models.training.exact import Examiner, exact_matches, read_questions

MOST_BYTES = 4_000_000
EACH = 10
"""Questions of each task."""


def test_it_is_the_preset_and_small():
    checkpoint = load_checkpoint(DEMO)
    assert checkpoint.config == preset_config("nano")
    assert checkpoint.path.stat().st_size <= MOST_BYTES


def test_a_file_of_that_name_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(DEMO) != DEMO
    Path("demo").touch()
    assert located(DEMO) == DEMO
    assert located(Path("other")) == Path("other")


@pytest.mark.parametrize("part", ["eval", "skill_eval"])
def test_it_knows_its_tasks_and_not_the_skill(part, tmp_path):
    """Held-out questions; what it does not know is left for an adapter to learn."""
    records = getattr(make_corpus(0, 1), part)
    tasks = {record.task for record in records}
    chosen = [r for task in sorted(tasks) for r in [r for r in records if r.task == task][:EACH]]
    data = tmp_path / "questions.json"
    data.write_text(json.dumps([asdict(record) for record in chosen]))
    checkpoint = load_checkpoint(DEMO)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, "demo")
    questions = read_questions(data, tokenizer, "bitnet-chat")
    examiner = Examiner(checkpoint.config, checkpoint.weights, NumpyBackend(), tokenizer, questions)
    *_, everything = exact_matches(questions, list(examiner.answers()))
    assert everything.total == EACH * len(tasks)
    if part == "eval":
        assert everything.accuracy > 0.65
    else:
        assert everything.accuracy < 0.05
