"""Where measured costs are kept: a table for each device and driver, in the user's cache folder."""

import re
from pathlib import Path

from ..graph.program import Backend
from ..graph.storage import cache_folder
from ..passes.checkpoint.costs import NOMINAL, CostTable, read_table


def costs_path(backend: Backend) -> Path:
    """The file of a backend's table."""
    name = re.sub(r"[^a-z0-9.]+", "-", backend.name.lower()).strip("-")
    return cache_folder() / f"costs-{name}.json"


def measured_costs(backend: Backend) -> CostTable:
    """What `bitgraph tune` has measured on this device, else the built-in estimates.

    Raises:
        BitgraphError: there is a file, but no table in it.
    """
    path = costs_path(backend)
    return read_table(path) if path.exists() else NOMINAL
