"""Names are data: whatever a checkpoint, a folder or a store is called, a command works or refuses.

Every case is a command of its own, as people start it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import write_checkpoint, write_photographs

HOSTILE = "run[/old]\x1b[2J\u202e[lr=0.1]é:fire:"
"""A path with markup, an escape sequence, a mark that turns the direction, and an emoji's name."""

SHOWN = r"run[/old]\x1b[2J\u202e[lr=0.1]é:fire:"

SMALL = ("--synthetic-images", "10", "--block-images", "4", "--segment-images", "8")


def soapworks(
    *arguments: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "soapworks.flows.cli", *map(os.fspath, map(_text, arguments))]
    return subprocess.run(command, capture_output=True, env={**os.environ, **(env or {})})


def _text(argument: object) -> str | bytes:
    return argument if isinstance(argument, bytes) else str(argument)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("names")
    write_checkpoint(place / HOSTILE)
    write_photographs(place / "images", 9)
    return place


@pytest.fixture(scope="module")
def scored(place: Path) -> subprocess.CompletedProcess[bytes]:
    """A run of the hostile checkpoint, on a machine whose output can only be ASCII."""
    return soapworks(*request(place), env={"PYTHONIOENCODING": "ascii"})


def request(place: Path, command: str = "score") -> list[object]:
    options = ["--device", "cpu", "--layers", "norm", *SMALL]
    return [
        *(command, place / HOSTILE, "--images", place / "images"),
        *("--store", place / "store", *options),
    ]


@pytest.mark.server
def test_a_run_whose_output_cannot_be_encoded_succeeds(
    scored: subprocess.CompletedProcess[bytes],
) -> None:
    assert scored.returncode == 0, scored.stderr
    assert b"run[/old]\\x1b[2J\\u202e[lr=0.1]?:fire:" in scored.stdout
    assert b"\x1b" not in scored.stdout + scored.stderr


COMMANDS = (
    *("plan", "score", "ls", "leaderboard", "leaderboard --matrix top-si", "verify"),
    *("gc --keep-features none --dry-run", "show", "report"),
)


@pytest.mark.server
@pytest.mark.parametrize("command", COMMANDS)
def test_names_are_shown_as_they_are(
    place: Path, scored: subprocess.CompletedProcess[bytes], command: str
) -> None:
    arguments = [*command.split(), "--store", place / "store"]
    if command in ("plan", "score"):
        arguments = request(place, command)
    elif command == "show":
        arguments.append(_key(place))
    done = soapworks(*arguments, env={"PYTHONIOENCODING": "utf-8", "COLUMNS": "400"})
    assert done.returncode == 0, done.stderr
    assert not {0x1B, 0x07} & set(done.stdout + done.stderr)
    assert "\u202e" not in done.stdout.decode()
    if command in ("plan", "score", "leaderboard --matrix top-si"):
        assert SHOWN in done.stdout.decode()


def _key(place: Path) -> str:
    (head,) = (place / "store" / "heads").iterdir()
    return f"heads/{head.name}"


@pytest.mark.server
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_says_the_name_itself(
    place: Path, scored: subprocess.CompletedProcess[bytes], encoding: str
) -> None:
    done = soapworks(*request(place), "--json", env={"PYTHONIOENCODING": encoding})
    (row,) = json.loads(done.stdout)
    assert row["checkpoint"] == str(place / HOSTILE)


@pytest.mark.parametrize("which", ["checkpoint", "images", "store"])
def test_a_path_that_is_not_utf_8_is_refused_before_any_work(
    place: Path, tmp_path: Path, which: str
) -> None:
    bad = os.fsencode(tmp_path) + b"/mod\xe8le"
    Path(os.fsdecode(bad)).mkdir()
    checkpoint, images, store = (
        bad if which == name else good
        for name, good in (
            ("checkpoint", place / HOSTILE),
            ("images", place / "images"),
            ("store", tmp_path / "store"),
        )
    )
    done = soapworks("score", checkpoint, "--images", images, "--store", store)
    assert done.returncode == 1
    (line,) = done.stderr.decode("ascii").splitlines()
    assert r"mod\udce8le" in line
    assert "UTF-8" in line
    assert not (tmp_path / "store").exists()
    assert not list(Path(os.fsdecode(bad)).iterdir())
