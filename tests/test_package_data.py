"""What a wheel holds besides modules: an installation from the folder hides what is forgotten."""

import tomllib
from pathlib import Path

import bitgraph

ROOT = Path(bitgraph.__path__[0])
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name: ROOT.joinpath(*name.split(".")[1:]) for name in SETTINGS["packages"]}


def test_every_package_is_listed() -> None:
    tops = {folder.relative_to(ROOT).parts[0] for folder in FOLDERS.values() if folder != ROOT}
    found = {file.parent for top in tops for file in (ROOT / top).rglob("__init__.py")}
    assert found | {ROOT} == set(FOLDERS.values())


def test_every_file_of_a_package_is_shipped() -> None:
    shipped = {
        file
        for name, patterns in SETTINGS["package-data"].items()
        for pattern in patterns
        for file in FOLDERS[name].glob(pattern)
    }
    packages = [folder for folder in FOLDERS.values() if folder != ROOT]
    data = {
        file
        for folder in packages
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    assert ROOT / "cli" / "report" / "page.html" in data
    assert sorted(data - shipped) == []
