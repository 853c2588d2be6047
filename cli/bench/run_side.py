"""What a process of `bitgraph bench` runs: a job by its name, with arguments as JSON.

python -m bitgraph.cli.bench.run_side train '{"model": "2b.gguf", "backend": "vulkan", ...}'

The result is printed as one line of JSON, an error as one sentence.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Final

from ...graph.errors import BitgraphError
from .kernel_times import profile_decoding, profile_training
from .measure import measure_decoding, measure_prefill, measure_training
from .results import Result
from .single import measure_kernels

JOBS: Final[Mapping[str, Callable[..., Result]]] = {
    "train": measure_training,
    "decode": measure_decoding,
    "prefill": measure_prefill,
    "profile train": profile_training,
    "profile decode": profile_decoding,
    "kernels": measure_kernels,
}


def main() -> None:
    """Run one job."""
    name, arguments = sys.argv[1:]
    try:
        print(json.dumps(JOBS[name](**json.loads(arguments))))
    except BitgraphError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
