"""Our own server never outlives its command, however that ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

PROGRAM = """
import time
from soapworks.flows.engine.session import orchestrated
with orchestrated() as engine:
    {body}
    time.sleep(600)
"""
FLOW = """
    from prefect import flow
    @flow
    def long():
        print("in the flow", flush=True)
        time.sleep(600)
    long()
"""
# A grandchild that inherited every open file keeps the pipe to the server open.
FORK = """
import os, time
from pathlib import Path
from soapworks.flows.engine.server import OwnServer
server = OwnServer(Path())
os.fork()
time.sleep(600)
"""

pytestmark = pytest.mark.server
Command = Callable[[str], tuple[subprocess.Popen[str], psutil.Process]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """Start a program; returns as soon as its server has been started, healthy or not."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for child in psutil.Process(process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if any(part.endswith("server_process.py") for part in child.cmdline()):
                        return process, child
            time.sleep(0.01)
        raise TimeoutError("no server was started")

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_killed_command(command: Command, tmp_path: Path) -> None:
    process, server = command(PROGRAM.format(body="print('up', flush=True)"))
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.kill()
    assert gone(server, 10)
    assert emptied(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death on Linux")
def test_killed_command_whose_fork_lives_on(command: Command) -> None:
    process, server = command(FORK)
    end = time.monotonic() + 60
    while len(psutil.Process(process.pid).children()) < 2 or server.num_threads() < 2:
        assert time.monotonic() < end, "the server does not watch"
        time.sleep(0.01)
    process.kill()
    assert gone(server, 10)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)])
def test_interrupted_while_starting(
    command: Command, number: int, status: int, tmp_path: Path
) -> None:
    process, server = command(PROGRAM.format(body=""))
    process.send_signal(number)
    assert process.wait(30) == status
    assert gone(server, 10)
    assert emptied(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)])
def test_interrupted_flow(command: Command, number: int, status: int, tmp_path: Path) -> None:
    process, server = command(PROGRAM.format(body=FLOW))
    assert process.stdout
    assert process.stdout.readline() == "in the flow\n"
    process.send_signal(number)
    assert process.wait(30) == status
    assert gone(server, 0)
    assert emptied(tmp_path)


def gone(process: psutil.Process, seconds: float) -> bool:
    """Whether the process ends within so many seconds."""
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


def emptied(folder: Path) -> bool:
    """Whether the folder is empty before long."""
    end = time.monotonic() + 10
    while any(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(folder.iterdir())
