"""What surrounds a command is short of something: one sentence with the cure, before any work."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from soapworks.errors import InputError, StoreError, user_message
from soapworks.flows.run_score import check_store
from soapworks.storage_schemas.store import Store
from tests.small import write_checkpoint, write_photographs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_checkpoint(place / "model")
    write_photographs(place / "images", 5)
    (place / "file").touch()
    return place


def score(place: Path, store: Path, **how: object) -> str:
    """Return the one line that a command that must fail prints."""
    command = [sys.executable, "-m", "soapworks.flows.cli", "score", str(place / "model")]
    command += ["--images", str(place / "images"), "--store", str(store), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, **how)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "unexpected" not in line
    return line


def test_a_store_below_a_file(place: Path) -> None:
    line = score(place, place / "file" / "store")
    assert f"{place / 'file'} is not a folder; choose another with --store." in line


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write")
def test_a_store_below_a_folder_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="must not be written by this user; choose another"):
        check_store(Store(tmp_path / "store"))


def test_rights_are_those_of_the_nearest_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(StoreError, match=f"{tmp_path} must not be written"):
        check_store(Store(tmp_path / "some" / "store"))
    (tmp_path / "other").mkdir()
    check_store(Store(tmp_path / "other" / "store"))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("limit", [1_000_000, 2_000_000])
def test_little_memory(place: Path, tmp_path: Path, limit: int) -> None:
    def preexec() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit << 10, limit << 10))

    line = score(place, tmp_path / "store", preexec_fn=preexec)
    assert line.startswith("soapworks: memory ran out: ")
    assert "ulimit -v" in line


def test_memory_that_ran_out_behind_another_error() -> None:
    error = InputError("a.png cannot be read")
    error.__cause__ = MemoryError()
    assert user_message(error).startswith("memory ran out")


def test_no_home_folder() -> None:
    with pytest.raises(RuntimeError) as caught:
        Path("~nobody-of-this-name/x").expanduser()
    assert user_message(caught.value).startswith("the home folder is not known: set HOME")
