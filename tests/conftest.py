"""What all tests share: an environment of their own, and a real Prefect server on request."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from distributed import SpecCluster

from tests.s3_server import S3Server, forget_connections, running_s3_server

_HOME = Path(tempfile.mkdtemp(prefix="soapworks-tests-"))
_STARTUP_DEADLINE = 180.0

# Before anything imports Prefect: a developer's server, profile and results stay out of the tests.
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[_name]
os.environ.update(
    DO_NOT_TRACK="1",
    PREFECT_HOME=str(_HOME / "prefect"),
    PREFECT_SERVER_ANALYTICS_ENABLED="0",
    PREFECT_SERVER_EPHEMERAL_ENABLED="0",
    SOAPWORKS_HOME=str(_HOME / "soapworks"),
)


# Processes that run beside each other take one core each; `make` says so to this one as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3 on loopback, and the settings that lead to it.

    One for all tests: open file systems are kept by their arguments, and the server's address,
    which comes from the environment, is none of them.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_server_process() -> Iterator[S3Server]:
    """A real S3 server, started once per session."""
    with running_s3_server(_HOME / "s3") as server:
        yield server


@pytest.fixture(scope="module")
def s3_server(s3_server_process: S3Server) -> Iterator[S3Server]:
    """The real S3 server, as the one that ``s3://`` leads to in a module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server_process.environment.items():
            patch.setenv(name, value)
        forget_connections()
        yield s3_server_process
    forget_connections()


@pytest.fixture(scope="module")
def dask_cluster() -> "Iterator[SpecCluster]":
    """A Dask cluster on loopback for a module: two worker processes, one declares a GPU."""
    from tests.clusters import cluster_of

    with cluster_of({}, {"resources": {"GPU": 1}}) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def prefect_server_url() -> Iterator[str]:
    """A full Prefect server as operators run it, started once per session: its API's URL."""
    home = _HOME / "server"
    home.mkdir()
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--no-ui", f"--port={port}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            env={
                **os.environ,
                "PREFECT_HOME": str(home),
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
                "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
            },
            start_new_session=True,
        )
    try:
        _wait_until_healthy(server, port, home / "server.log")
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the database is thrown away
        server.wait()


@pytest.fixture
def prefect_server(prefect_server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The session's Prefect server, as the one that this test's Prefect uses: its API's URL."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_server_url)
    with temporary_settings({PREFECT_API_URL: prefect_server_url}):
        yield prefect_server_url


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _STARTUP_DEADLINE
    while server.poll() is None and time.monotonic() < end:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            try:
                connection.request("GET", "/api/health")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()[-3000:]}")
