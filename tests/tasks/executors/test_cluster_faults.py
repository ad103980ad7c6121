"""What is wrong with a Dask cluster is told in one sentence, and costs nothing that is finished."""

import http.server
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distributed import SpecCluster, versions
from pydantic import ValidationError

from soapworks.errors import EngineError, InputError
from soapworks.tasks import run as stages
from soapworks.tasks.executors import cluster as cluster_calls
from soapworks.tasks.executors import connection
from soapworks.tasks.executors.connection import connected
from soapworks.tasks.passes.cluster import seen_from_here
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions
from tests.clusters import (
    StandStill,
    WithoutSoapworks,
    cluster_of,
    on_workers,
)
from tests.tasks.conftest import run_stages


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(connection, "WORKERS_SECONDS", 0.5)


@pytest.fixture
def address(dask_cluster: SpecCluster) -> str:
    return dask_cluster.scheduler_address


def refusal(address: str) -> str:
    with pytest.raises(EngineError) as error, connected(address):
        pass
    return str(error.value)


def test_the_default_patience_is_short() -> None:
    assert connection.CONNECT_SECONDS + 1 <= 10
    assert connection.WORKERS_SECONDS <= 10


@pytest.mark.usefixtures("in_haste")
def test_nothing_listens() -> None:
    assert refusal("tcp://127.0.0.1:1") == (
        "no Dask scheduler answers at tcp://127.0.0.1:1 (Connection refused): check the address "
        "and that `dask scheduler` runs there, or leave --dask out"
    )


@pytest.mark.usefixtures("in_haste")
def test_what_listens_is_no_scheduler() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        told = refusal(f"tcp://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "the answer is not a scheduler's" in told


def test_the_address_of_a_worker(dask_cluster: SpecCluster) -> None:
    worker = next(iter(dask_cluster.scheduler_info["workers"]))
    assert f"{worker} is not a Dask scheduler but a Worker" in refusal(worker)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("cluster", "is not a usable Dask scheduler address.*missing port"),
        (
            "http://127.0.0.1:8786",
            "is not a usable Dask scheduler address.*unknown address scheme",
        ),
        ("tls://127.0.0.1:8786", r"for tls:// set Dask's distributed.comm.tls"),
    ],
)
def test_addresses_that_are_none(wrong: str, told: str) -> None:
    with pytest.raises(InputError, match=told), connected(wrong):
        pass


@pytest.mark.parametrize(
    "address",
    ["tcp://user:s3cret@127.0.0.1:8786", "user:s3cret@127.0.0.1:8786", "tcp://h:1?token=s3cret"],
)
def test_secrets_have_no_place_in_addresses(address: str) -> None:
    with pytest.raises(InputError, match="no user, password or query") as refused:
        refusal(address)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValidationError, match="no user, password or query") as invalid:
        RunOptions(dask=address)
    assert "s3cret" not in str(invalid.value)


@pytest.mark.usefixtures("in_haste")
def test_a_scheduler_without_workers() -> None:
    with cluster_of() as cluster:
        told = refusal(cluster.scheduler_address)
    assert "has no workers: start some with `dask worker tcp://127.0.0.1:" in told


def test_workers_with_another_version(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, in which the scheduler runs too, says that it has another torch."""
    real = versions._version_cached
    theirs = real("torch").partition("+")[0]
    monkeypatch.setattr(
        versions, "_version_cached", lambda name: "1.0" if name == "torch" else real(name)
    )
    told = refusal(address)
    assert "the Dask worker tcp://127.0.0.1:" in told
    assert f"has torch {theirs} where this process has 1.0: install the same versions" in told


def test_builds_of_one_version_are_the_same(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a GPU has another build of torch than its workers."""
    real = versions._version_cached
    other = real("torch").partition("+")[0] + "+cu999"
    monkeypatch.setattr(
        versions, "_version_cached", lambda name: other if name == "torch" else real(name)
    )
    with connected(address) as cluster:
        assert cluster is not None


def test_another_soapworks(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "__version__", "99.0")
    assert "where this process has 99.0" in refusal(address)


def test_workers_without_soapworks(address: str) -> None:
    with on_workers(address, WithoutSoapworks()):
        told = refusal(address)
    assert "the Dask worker tcp://127.0.0.1:" in told
    assert "cannot import soapworks" in told


def test_blocks_in_blocks_share_a_connection(address: str) -> None:
    with connected(address) as one:
        with connected(address) as other:
            assert other is one
        assert one.client.status == "running"
    assert one.client.status == "closed"
    assert connection._open == {}


@pytest.mark.parametrize("what", ["store", "images", "checkpoint"])
def test_workers_that_do_not_see_what_this_process_sees(
    address: str, finished: ScoreRequest, tmp_path: Path, what: str
) -> None:
    (manifest,), (identity,) = (
        stages.index_stage(finished).keys,
        stages.identify_stage(finished).keys,
    )
    elsewhere = str(tmp_path / "elsewhere")
    changes: dict[str, object] = {}
    if what == "store":
        changes["options"] = finished.options.model_copy(update={"store": elsewhere})
    else:
        changes[what] = elsewhere
    request = finished.planned(manifest, identity).model_copy(update=changes)
    with (
        connected(address) as cluster,
        pytest.raises(EngineError, match=f"worker tcp://.* does not see the {what} at {elsewhere}"),
    ):
        list(cluster.as_done(seen_from_here, [request], {}))


def die(_: object) -> None:
    os._exit(1)


def test_workers_that_keep_dying(
    dask_cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster.scheduler, "allowed_failures", 0)
    with connected(dask_cluster.scheduler_address) as cluster:
        with pytest.raises(EngineError, match=r"died 1 times over .* what is finished is kept"):
            list(cluster.as_done(die, [None], {}))
        cluster.client.wait_for_workers(2, timeout=60)


def test_a_cluster_that_nobody_works_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_calls, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(cluster_calls, "PATIENCE", 0.2)
    with cluster_of({}) as cluster, connected(cluster.scheduler_address) as connected_:
        calls = connected_.as_done(abs, [1], {"GPU": 1})
        with pytest.raises(EngineError, match="has had no worker that can do the work for 0 sec"):
            next(calls)


def test_a_scheduler_that_goes_away(
    request_of: Callable[..., ScoreRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_calls, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(cluster_calls, "PATIENCE", 2.0)
    plugin = StandStill(tmp_path / "notes")
    with cluster_of({}) as cluster, ThreadPoolExecutor(1) as pool:
        request = request_of(dask=cluster.scheduler_address, layers="norm")
        with on_workers(cluster.scheduler_address, plugin):
            run = pool.submit(run_stages, request)
            plugin.wait_for_process()
        began = time.monotonic()
        cluster.close()
        with pytest.raises(EngineError, match="what is finished is kept"):
            run.result()
    assert time.monotonic() - began < 60
    run_stages(request_of(layers="norm"))
    assert os.listdir(tmp_path / "store" / "heads")  # noqa: PTH208
