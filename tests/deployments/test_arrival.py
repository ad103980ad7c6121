"""A checkpoint arrives in a bucket, and its head is published, with no manual step.

Everything is as operators run it: a Prefect server, a process worker, the deployments of
prefect.yaml, a Dask scheduler with two workers, an S3 server; only the watch looks more often.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pandas as pd
import psutil
import pytest
import yaml

from soapworks.heads.head import SoapHead
from soapworks.storage_schemas.store import Store
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.deployments.test_prefect_file import FILE, PROJECT, deploy
from tests.s3_server import S3Server
from tests.small import write_checkpoint, write_photographs
from tests.tasks.conftest import run_stages

SETTINGS = {"layers": "norm", "synthetic_images": 6, "block_images": 4, "segment_images": 8}
POOL = "arrivals"
DEADLINE = 400.0

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@contextlib.contextmanager
def running(log: Path, *arguments: str, **environment: str) -> Iterator[Path]:
    """Run one of Python's commands beside the test; yields what it writes."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
    finally:
        # A worker's flow runs are processes of their own, in sessions of their own.
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def wait_for(what: Callable[[], Any], why: Callable[[], str]) -> Any:
    """Return something once it is there."""
    end = time.monotonic() + DEADLINE
    while not (found := what()):
        assert time.monotonic() < end, why()
        time.sleep(0.5)
    return found


@pytest.fixture
def cluster(s3_server: S3Server, tmp_path: Path) -> Iterator[str]:
    """A Dask scheduler and two workers, started as operators start them."""
    with contextlib.ExitStack() as stack:
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        log = stack.enter_context(
            running(tmp_path / "scheduler.log", "distributed.cli.dask_scheduler", *options)
        )
        found = wait_for(
            lambda: re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text()), log.read_text
        )
        for number in range(2):
            local = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
            stack.enter_context(
                running(
                    tmp_path / f"worker-{number}.log",
                    "distributed.cli.dask_worker",
                    found[1],
                    *local,
                )
            )
        yield found[1]


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path) -> Any:
    """A bucket with photographs, and a folder into which checkpoints will come."""
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.mkdir("arrivals")
    photographs = write_photographs(tmp_path / "photographs", 9)
    system.put(str(photographs), "arrivals/photographs", recursive=True)
    system.pipe_file("arrivals/checkpoints/README", b"checkpoints come here")
    return system


def look_often(folder: Path) -> Path:
    """Write a deployments file whose watch is as impatient as a test."""
    document = yaml.safe_load(FILE.read_text())
    for deployment in document["deployments"]:
        deployment["work_pool"] = {"name": POOL}
        for name, values in (("settings", SETTINGS), ("options", {"device": "cpu"})):
            if name in deployment["parameters"]:
                deployment["parameters"][name] |= values
        if deployment["name"] == "watch":
            deployment["schedules"][0]["interval"] = 15  # a look takes some ten seconds
            deployment["parameters"]["watching"] |= {"stable_seconds": 1}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(document))
    return folder / "prefect.yaml"


def states(server: str) -> str:
    """Return the flow runs and how they stand, for a message."""
    body = {"sort": "START_TIME_DESC", "limit": 30}
    runs = httpx.post(f"{server}/flow_runs/filter", json=body, timeout=60).json()
    return "\n".join(f"{run['name']}: {run['state']['message']}" for run in runs)


def test_from_arrival_to_head(
    bucket: Any, cluster: str, prefect_server: str, s3_server: S3Server, tmp_path: Path
) -> None:
    store = Store("s3://arrivals/store")
    kept = store.location / "leaderboard.parquet"
    deploy(
        look_often(tmp_path),
        prefect_server,
        POOL,
        SOAPWORKS_STORE=store.url,
        SOAPWORKS_IMAGES="s3://arrivals/photographs",
        SOAPWORKS_CHECKPOINTS="s3://arrivals/checkpoints",
        SOAPWORKS_DASK=cluster,
    )
    worker = ("prefect", "worker", "start", "--pool", POOL)
    quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", "SOAPWORKS_PROJECT": str(PROJECT)}
    with running(tmp_path / "worker.log", *worker, PREFECT_API_URL=prefect_server, **quick) as log:
        checkpoint = write_checkpoint(tmp_path / "step_1000")
        bucket.put(str(checkpoint), "arrivals/checkpoints/step_1000", recursive=True)
        (head,) = wait_for(
            lambda: store.products("heads"),
            lambda: f"{states(prefect_server)}\n{log.read_text()[-5000:]}",
        )
        wait_for(kept.exists, lambda: states(prefect_server))
    assert SoapHead.from_bytes(head.read("head.safetensors")).weight.shape == (24, 24)
    board = pd.read_parquet(io.BytesIO(kept.read_bytes()))
    assert board["layer"].tolist() == ["norm"]
    request = ScoreRequest(
        checkpoint=str(checkpoint),
        images=str(tmp_path / "photographs"),
        settings=ScoreSettings(**SETTINGS),
        options=RunOptions(store=str(tmp_path / "store"), device="cpu"),
    )
    (here,) = run_stages(request)
    local = request.store().product(here["key"])
    assert local.key == head.key
    assert local.record["files"] == head.record["files"]
    assert board["top_si"].tolist() == [pytest.approx(here["top_si"])]
