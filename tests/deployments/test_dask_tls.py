"""A Dask cluster with TLS, set up by the commands of the operators' guide."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.test_arrival import running, wait_for
from tests.deployments.test_prefect_file import PROJECT

GUIDE = (PROJECT / "deployments" / "README.md").read_text()
PROGRAM = """
import sys
from soapworks.errors import SoapworksError
from soapworks.tasks.executors.connection import connected
try:
    with connected(sys.argv[1]) as cluster:
        print(cluster.client.submit(sum, [1, 2]).result())
except SoapworksError as error:
    print(error)
"""

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that the guide's commands make."""
    folder = tmp_path_factory.mktemp("tls")
    (request,) = re.findall(r"^openssl .*$", GUIDE, re.MULTILINE)
    exports = re.findall(r"^export DASK_.*$", GUIDE, re.MULTILINE)
    lines = [f"{request} 2> log", *exports, "env"]
    done = subprocess.run(
        ["sh", "-ec", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=True
    )
    names = {re.split("[ =]", line)[1] for line in exports}
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    found = {name: value for name, _, value in pairs if name in names}
    assert len(found) == 8
    return found


@pytest.fixture(scope="module")
def scheduler(certified: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    program = "distributed.cli.dask_scheduler"
    with running(folder / "scheduler.log", program, *options, **certified) as log:
        found = wait_for(lambda: re.search(r"at:\s+(tls://\S+)", log.read_text()), log.read_text)
        local = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
        worker = ("distributed.cli.dask_worker", found[1], *local)
        with running(folder / "worker.log", *worker, **certified):
            yield found[1]


def answer(address: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, address],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.strip()


def test_clients_with_the_certificate_are_served(scheduler: str, certified: dict[str, str]) -> None:
    assert answer(scheduler, **certified) == "3"


def test_clients_without_it_are_refused(scheduler: str) -> None:
    assert "for tls:// set Dask's distributed.comm.tls.*" in answer(scheduler)


def test_clients_without_tls_are_refused(scheduler: str) -> None:
    plain = scheduler.replace("tls://", "tcp://")
    assert answer(plain).startswith(f"no Dask scheduler answers at {plain}")


def test_clients_with_another_certificate_are_refused(
    scheduler: str, certified: dict[str, str], tmp_path: Path
) -> None:
    (request,) = re.findall(r"^openssl .*$", GUIDE, re.MULTILINE)
    subprocess.run(["sh", "-c", f"{request} 2> log"], cwd=tmp_path, check=True)
    other = {
        name: str(tmp_path / Path(value).name) if "TLS" in name else value
        for name, value in certified.items()
    }
    assert answer(scheduler, **other).startswith("no Dask scheduler answers at ")
