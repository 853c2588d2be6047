"""An adapter means the same in training, evaluation and generation, whatever its patterns."""

from dataclasses import replace

import numpy as np
import pytest
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.models.adapters.peft import load_adapter, save_adapter
from bitgraph.models.bitnet.forward import logits_graph
from bitgraph.models.bitnet.generate import Generator, Sampling
from bitgraph.models.data.examples import prompted
from bitgraph.models.training.evaluation import Evaluator, mean_loss
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer
from bitgraph.passes.manager import PassManager
from tiny_model import CONFIG, model_values

OPTIONS = TrainingOptions(
    rank=3, alpha=6.0, rslora=True, rank_pattern=("v_proj=5", "layers.1.mlp.up_proj=2"),
    alpha_pattern=("q_proj=2.5",), lr=0.05, batch_size=2, max_seq_len=32, warmup=0, epochs=4,
)  # fmt: skip
PROMPT = [3, 9, 27, 31]


def examples():
    rng = np.random.default_rng(0)
    return [prompted(rng.integers(0, 48, n).astype(np.int32), 3) for n in (9, 12, 7, 15)]


@pytest.fixture(scope="module")
def trainer():
    trainer = Trainer(CONFIG, model_values(), NumpyBackend(), OPTIONS, bucket=8)
    list(trainer.fit(examples()))
    return trainer


@pytest.fixture
def adapter(trainer, tmp_path):
    """As it comes back from its folder."""
    save_adapter(tmp_path, OPTIONS.adapter(trainer.tensors(), "base"))
    return load_adapter(tmp_path)


def evaluated(adapter):
    evaluator = Evaluator(CONFIG, model_values(), NumpyBackend(), batch_size=2, bucket=8)
    return mean_loss(evaluator.losses(examples(), adapter))


def logits_of_training(adapter, ids):
    graph = PassManager((OPTIONS.lora(),)).run(logits_graph(CONFIG, len(ids)))
    backend = NumpyBackend()
    backend.load({**model_values(), **adapter.tensors})
    slots = np.arange(len(ids), dtype=np.int32)
    tokens = np.array(ids, np.int32)
    feeds = {"tokens": tokens, "positions": slots, "first": 0 * slots, "last": slots}
    return backend.compile(graph).run(feeds)["logits"]


def test_evaluation_has_the_loss_of_the_trainer(trainer, adapter):
    wanted = trainer.evaluate(examples())
    assert evaluated(adapter) == pytest.approx(wanted, rel=1e-6)
    for change in ({"rslora": False}, {"alpha_pattern": {}}):
        assert evaluated(replace(adapter, **change)) != pytest.approx(wanted, rel=1e-3)


def test_generation_says_what_the_trained_model_finds_most_probable(adapter):
    generator = Generator(CONFIG, model_values(), NumpyBackend(), context=64)
    plain = list(generator.generate(PROMPT, Sampling(), frozenset(), 24))
    generator.use(adapter)
    said = list(generator.generate(PROMPT, Sampling(), frozenset(), 24))
    assert said != plain
    logits = logits_of_training(adapter, PROMPT + said)
    assert said == logits[len(PROMPT) - 1 : -1].argmax(1).tolist()
