"""The wheel: soapworks alone, complete, and importable wherever it is installed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SOURCES = ("soapworks", "storage_schemas", "tasks", "flows")
FILES = ("pyproject.toml", "README.md", "LICENSE")
PROGRAM = """
import sys
import soapworks
from soapworks.flows import cli, score, watch
from soapworks.tasks.reports import page
from soapworks.tasks.stages import extract
places = {module.__file__ for module in (soapworks, cli, score, watch, page, extract)}
assert all(place.startswith(sys.argv[1]) for place in places), places
cli.main(["score", "zoo:pocket_mim", "--images", "scenes", "--layers", "norm", "--store", "store",
    "--synthetic-images", "4", "--quiet"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources as an image's build copies them."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        shutil.copytree(PROJECT / name, folder / name, symlinks=True, ignore=skipped)
    for name in FILES:
        shutil.copy(PROJECT / name, folder / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", ".", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def pip(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_holds_soapworks_alone(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"soapworks", next(top for top in tops if top.endswith(".dist-info"))}


def test_it_holds_every_module_and_file_that_is_used(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    needed = {
        f"{'' if top == 'soapworks' else 'soapworks/'}{path.relative_to(PROJECT)}"
        for top in SOURCES
        for path in (PROJECT / top).rglob("*")
        if path.is_file() and path.suffix in (".py", ".html", ".css", ".json", ".safetensors")
    }
    needed = {name for name in needed if not name.startswith("soapworks/zoo/training/")}
    assert len(needed) > 150
    assert needed <= held
    assert "soapworks/py.typed" in held
    assert not [name for name in held if "training/" in name]


@pytest.mark.server
def test_it_works_beside_modules_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    """Every Prefect or invoke project has a tasks.py or a folder flows."""
    installed, project = tmp_path / "installed", tmp_path / "project"
    project.mkdir()
    for name in ("tasks.py", "flows.py", "storage_schemas.py"):
        (project / name).write_text("raise ImportError('somebody else imported this')")
    pip("install", "--no-deps", "--no-index", "-t", str(installed), str(wheel), cwd=tmp_path)
    scenes = ["from soapworks.zoo.scenes import write_scenes", "write_scenes('scenes', 6)"]
    for program in ("\n".join(scenes), PROGRAM):
        done = subprocess.run(
            [sys.executable, "-c", program, str(installed)],
            cwd=project,
            env=environment(installed),
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((project / "store" / "heads").iterdir())
    assert list((project / "store" / "reports").glob("*.html"))


def environment(installed: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(installed)}
