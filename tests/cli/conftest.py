"""Runs commands as a shell would, on a model that takes milliseconds a step."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bitgraph.cli import data_options
from bitgraph.cli.main import main
from bitgraph.models.bitnet.presets import preset_config, write_random_model
from runs import RECORDS, Result

SMALL_RUN = (
    "--rank", 4, "--batch-size", 2, "--epochs", 6, "--lr", 1e-2, "--dropout", 0.2, "--pack",
    "--tokens-per-step", 128, "--max-seq-len", 64, "--accumulate", 2, "--save-steps", 2,
    "--eval-steps", 3, "--samples", 0,
)  # fmt: skip


@pytest.fixture
def bitgraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run the entry point with arguments, in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["bitgraph", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tokenized data of a test are kept for that test alone."""
    monkeypatch.setattr(data_options, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a context of 512 tokens."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96}
    write_random_model(path, preset_config("tiny", **sizes), seed=0)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six records, each of about 130 tokens for that model."""
    path = tmp_path_factory.mktemp("data") / "data.json"
    path.write_text(json.dumps(RECORDS))
    return path


@pytest.fixture(scope="session")
def small_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Path], tuple[object, ...]]:
    """Arguments of a run that depends on all that a run may depend on, by backend and folder.

    One layer, so that a step is quick also on a CPU that plays a GPU; twelve documents of up to
    sixty tokens, which make two steps an epoch.
    """
    folder = tmp_path_factory.mktemp("small")
    model, data = folder / "model.gguf", folder / "data.json"
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64}
    write_random_model(model, preset_config("tiny", num_hidden_layers=1, **sizes), seed=0)
    texts = [f"{'counting ' * (1 + n % 5)}to {n}" for n in range(12)]
    data.write_text(json.dumps([{"text": text} for text in texts]))

    def arguments(backend: str, out: Path) -> tuple[object, ...]:
        device = ("--device", "lavapipe") if backend == "vulkan" else ()
        places = ("--model", model, "--data", data, "--eval-data", data, "--out", out)
        return ("train", *places, "--backend", backend, *device, *SMALL_RUN)

    return arguments
