"""How the NumPy backend copes with the 2B-4T geometry: time to a training graph, memory of a step.

bitgraph init --preset 2b-4t --out 2b.gguf
python benchmarks/large_model.py 2b.gguf --tokens 64
"""

import json
import resource
import time
from pathlib import Path

import click
import numpy as np
from bitgraph.backends.numpy.backend import NumpyBackend
from bitgraph.models.bitnet.checkpoint import load_checkpoint
from bitgraph.models.bitnet.forward import embedding_dtype, loss_graph
from bitgraph.models.data.batching import make_batch
from bitgraph.models.data.examples import prompted
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.trainer import Trainer
from bitgraph.passes.manager import PassManager


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--tokens", default=64, show_default=True, help="Tokens of the step.")
def main(model: Path, tokens: int) -> None:
    """Open MODEL, derive its training graph, run one step; print times and peak memory."""
    begin = time.perf_counter()
    checkpoint = load_checkpoint(model)
    options = TrainingOptions(batch_size=1, max_seq_len=tokens, warmup=0)
    graph = loss_graph(checkpoint.config, tokens, embedding_dtype(checkpoint.weights))
    joint = PassManager(options.training_passes()).run(graph)
    built = time.perf_counter()
    trainer = Trainer(checkpoint.config, checkpoint.weights, NumpyBackend(), options, bucket=tokens)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, checkpoint.config.vocab_size, tokens).astype(np.int32)
    batch = make_batch([prompted(ids, tokens // 4)], tokens)
    start = time.perf_counter()
    loss, norm = trainer.step(batch, 1, options.lr)
    print(
        json.dumps(
            {
                "nodes": len(joint.nodes),
                "seconds_to_training_graph": round(built - begin, 2),
                "seconds_of_a_step": round(time.perf_counter() - start, 1),
                "tokens": tokens,
                "loss": round(loss, 4),
                "grad_norm": round(norm, 4),
                "peak_resident_gib": round(
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
                ),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
