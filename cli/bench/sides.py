"""The sides of a job, each run in a process of its own.

So memory is that of one side alone, and what one breaks, a lost device included, the next does not
feel.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ...models.bitnet.config import BitNetConfig
from .results import Result

TORCH_SCRIPT: Final = Path(__file__).with_name("torch_side.py")

_SHOWN = 3000
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Side:
    """What a process measures.

    Attributes:
        name: of the side, for people.
        job: what is measured.
        arguments: of the function that measures; JSON can hold them.
        program: what runs it: an interpreter with a module or a script.
    """

    name: str
    job: str
    arguments: dict[str, Any] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "bitgraph.cli.bench.run_side")

    def run(self, timeout: float) -> Result:
        """The result, or {"error": why there is none}; "name" is the side's."""
        command = [*self.program, self.job, json.dumps(self.arguments)]
        return {"name": self.name, **_outcome(command, timeout)}


def torch_side(name: str, job: str, python: str, arguments: dict[str, Any]) -> Side:
    """PyTorch's side, by an interpreter that has it."""
    return Side(name, job, arguments, (python, str(TORCH_SCRIPT)))


def torch_geometry(config: BitNetConfig) -> dict[str, Any]:
    """The fields of transformers' BitNetConfig."""
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    )
    fields = asdict(config)
    return {name: fields[name] for name in names}


def _outcome(command: list[str], timeout: float) -> Result:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {timeout:g} s"}
    except OSError as error:
        return {"error": str(error)}
    if done.returncode:
        return {"error": done.stderr[-_SHOWN:].strip() or f"ended with status {done.returncode}"}
    try:
        result: Result = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"no result in its output: {done.stdout[-_SHOWN:].strip()}"}
    return result
