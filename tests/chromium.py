"""Pages in a headless Chromium: what is in them once their scripts have run."""

import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Options of a browser that keeps to itself."""

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    *FLAGS,
    "--window-size=1600,900",
    "--virtual-time-budget=5000",
    "--dump-dom",
)


def executable() -> str:
    """The browser's path; the test is skipped where there is none."""
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip("needs a browser: apt install chromium")
    return browser


def dom_of(page: Path, fragment: str, profile: Path) -> str:
    """The document after its scripts have run.

    Args:
        page: an HTML file.
        fragment: what stands behind # in the address.
        profile: an empty folder for the browser's own files.
    """
    command = [executable(), *_OPTIONS, f"--user-data-dir={profile}", f"{page.as_uri()}#{fragment}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ended.stdout
