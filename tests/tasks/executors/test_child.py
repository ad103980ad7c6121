"""Calls in a process of their own: results, errors, events, and the end of what hangs."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import psutil
import pytest

from soapworks.errors import CheckpointError, ResourceError, StalledError
from soapworks.remote import copy_listeners, drop_copy, local_copy
from soapworks.tasks.events import Event, Notice, Waiting, emit
from soapworks.tasks.executors import child
from soapworks.tasks.executors.child import call_in_child, heartbeat, relay_logs
from soapworks.tasks.watch.rules import is_permanent


def add(a: int, b: int) -> int:
    emit(Notice(f"adding in {os.getpid()}"))
    return a + b


def refuse(cause: Exception) -> None:
    raise CheckpointError("cannot be read") from cause


class UnpicklableError(OSError):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def refuse_oddly() -> None:
    raise UnpicklableError("lost", "connection")


def hang(pids: str) -> None:
    """Never end, whatever is asked, and have a child that does not either."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(pids).write_text(f"{os.getpid()} {other.pid}")
    emit(Notice("started"))
    while True:
        time.sleep(1)


def wait_for_another() -> str:
    emit(Waiting("for another process"))
    time.sleep(1.5)
    return "done"


def fetch(url: str) -> str:
    """Copy a file in pieces, each of which takes a while, without an event."""
    system = fsspec.filesystem("memory")
    system.pipe_file("/far/a.pt", b"x" * 1000)
    copy_listeners.append(lambda _: heartbeat())
    for _ in range(4):
        time.sleep(1.1)
        local_copy(url)
        drop_copy(url)
    return "done"


def crash(number: int) -> None:
    os.kill(os.getpid(), number)


def leave() -> None:
    os._exit(3)


def log() -> None:
    relay_logs()
    logging.getLogger("soapworks").warning("about %s", "a layer", extra={"flow_run_name": "run"})


def test_it_returns_what_the_function_returns_and_passes_on_its_events(events: list[Event]) -> None:
    assert call_in_child(add, 1, 2, stall_seconds=60) == 3
    (event,) = events
    assert isinstance(event, Notice)
    assert event.message.startswith("adding in ")
    assert event.message != f"adding in {os.getpid()}"


@pytest.mark.parametrize(
    ("cause", "permanent"), [(ValueError("x"), True), (OSError(5, "x"), False)]
)
def test_an_error_keeps_its_kind_and_its_causes(cause: Exception, permanent: bool) -> None:
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        call_in_child(refuse, cause, stall_seconds=60)
    assert type(caught.value.__cause__) is type(cause)
    assert is_permanent(caught.value) == permanent


def test_an_error_that_cannot_be_pickled_keeps_its_words() -> None:
    with pytest.raises(OSError, match="UnpicklableError: lost connection"):
        call_in_child(refuse_oddly, stall_seconds=60)


def test_one_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.2)
    with pytest.raises(StalledError, match=r"no progress for 0\.5 s \(limit --stall-seconds\)"):
        call_in_child(hang, str(tmp_path / "pids"), stall_seconds=0.5)
    assert events == [Notice("started")]
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        gone = not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert gone, pid


def test_waiting_for_another_process_is_no_stall() -> None:
    assert call_in_child(wait_for_another, stall_seconds=0.3) == "done"


def test_bytes_that_are_copied_are_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path))
    assert call_in_child(fetch, "memory://far/a.pt", stall_seconds=2.5) == "done"


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "lack of memory"), (signal.SIGSEGV, "SIGSEGV")]
)
def test_a_crash_is_an_error(number: int, words: str) -> None:
    with pytest.raises(ResourceError, match=words):
        call_in_child(crash, number, stall_seconds=60)


def test_an_early_end_is_an_error() -> None:
    with pytest.raises(ResourceError, match="exit status 3"):
        call_in_child(leave, stall_seconds=60)


def test_log_records_reach_the_handlers_of_this_process(caplog: pytest.LogCaptureFixture) -> None:
    call_in_child(log, stall_seconds=60)
    (record,) = caplog.records
    assert record.getMessage() == "about a layer"
    assert getattr(record, "flow_run_name", None) == "run"


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]])
def test_it_ends_with_its_parent_however_that_ends(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    code = (
        "from tests.tasks.executors.test_child import hang\n"
        "from soapworks.tasks.executors.child import call_in_child\n"
        "if __name__ == '__main__':\n"
        f"    call_in_child(hang, {str(tmp_path / 'pids')!r}, stall_seconds=600)"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    pid, other = map(int, (tmp_path / "pids").read_text().split())
    for number in signals:
        parent.send_signal(number)
        time.sleep(0.5)
    parent.wait(timeout=60)
    if psutil.pid_exists(pid):
        psutil.wait_procs([psutil.Process(pid)], timeout=60)
    gone = not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    if psutil.pid_exists(other):
        os.kill(other, signal.SIGKILL)
    assert gone
