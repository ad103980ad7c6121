"""Store, photographs and checkpoint on a real S3 server, which knows no conditional puts."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from soapworks.remote import file_system
from soapworks.storage_schemas.leasing.leases import Lease, acquire
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.maintenance.gc import choose, clean
from soapworks.tasks.maintenance.repair import repair
from soapworks.tasks.maintenance.retention import Retention
from soapworks.tasks.maintenance.verify import verify
from tests.s3_server import S3Server
from tests.tasks.conftest import Forwards, run_stages

WORKERS = 2
MEMORY = 1 << 30


@pytest.fixture
def in_bucket(
    request: pytest.FixtureRequest, s3_server: S3Server, checkpoint: Path, photographs: Path
) -> dict[str, str]:
    """A bucket of the test's own with a checkpoint and photographs, and room for a store."""
    name = request.node.name.replace("_", "-")[:60].rstrip("-")
    # Through the server, which would not see at once what is put into its folder.
    system, _ = file_system(f"s3://{name}")
    system.mkdir(name)
    system.put(str(checkpoint), f"{name}/models/small", recursive=True)
    system.put(str(photographs), f"{name}/photographs", recursive=True)
    return {
        "checkpoint": f"s3://{name}/models/small",
        "images": f"s3://{name}/photographs",
        "store": f"s3://{name}/store",
    }


def test_a_run_a_second_and_growth(
    request_of: Any,
    in_bucket: dict[str, str],
    photographs: Path,
    s3_server: S3Server,
    forwards: Forwards,
) -> None:
    rows = run_stages(request_of(**in_bucket, layers="norm"))
    assert forwards.n_images == 31
    assert [row["cached"] for row in run_stages(request_of(**in_bucket, layers="norm"))] == [True]
    assert forwards.n_images == 31
    (local,) = run_stages(request_of(layers="norm"))
    there = request_of(**in_bucket, layers="norm").store().product(rows[0]["key"])
    here = request_of(layers="norm").store().product(local["key"])
    assert there.record["files"] == here.record["files"]
    assert verify(request_of(**in_bucket).store(), workers=WORKERS).damaged == ()


def test_pieces_of_objects_are_read(in_bucket: dict[str, str]) -> None:
    """The server sends the checksum of the whole object along with a piece of it."""
    store, data = Location.parse(in_bucket["store"]), bytes(range(256)) * 40
    (store / "object").write_bytes(data)
    assert (store / "object").read_bytes(limit=99) == data[:100]
    assert (store / "object").digest() == (len(data), hashlib.sha256(data).hexdigest())


def test_damage_is_found_and_mended(request_of: Any, in_bucket: dict[str, str]) -> None:
    (row,) = run_stages(request_of(**in_bucket, layers="norm"))
    store = request_of(**in_bucket).store()
    head = store.product(row["key"]).data / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = store.products("features")[0]
    (damaged.data / next(f for f in damaged.record["files"] if f.endswith("c/0/0/0/0"))).delete()
    found = verify(store, workers=WORKERS)
    assert [one.address.split("/")[0] for one in found.damaged] == ["features", "heads"]
    outcomes = repair(store, found.damaged, memory=MEMORY, workers=WORKERS)
    assert sorted(one.outcome for one in outcomes) == ["remade", "withdrawn"]
    assert (store.product(row["key"]).data / "head.safetensors").read_bytes() == whole
    assert verify(store, workers=WORKERS).damaged == ()


def test_housekeeping(request_of: Any, in_bucket: dict[str, str]) -> None:
    run_stages(request_of(**in_bucket, layers="norm"))
    store = request_of(**in_bucket).store()
    kept = {p.key for p in store.products() if p.kind != "features"}
    deleted, left = clean(store, choose(store, Retention(keep_features=0)))
    assert not left
    assert sum(choice.n_bytes for choice in deleted) > 0
    assert {p.key for p in store.products()} == kept
    assert (store.location / "features").sizes() == {}


def test_one_of_many_holds_a_lease_without_conditional_puts(in_bucket: dict[str, str]) -> None:
    place = Location.parse(in_bucket["store"]) / "features" / "wanted"
    with ThreadPoolExecutor(4) as threads:
        for number in range(10):
            folder, together = place / f"a{number}", threading.Barrier(4)

            def take(
                _: int, folder: Location = folder, together: threading.Barrier = together
            ) -> Lease | None:
                together.wait()
                return acquire(folder, 60)

            taken = [lease for lease in threads.map(take, range(4)) if lease is not None]
            assert len([lease for lease in taken if not _lost(lease)]) <= 1
            for lease in taken:
                lease.release()


def _lost(lease: Lease) -> bool:
    lease.beat()
    return lease.lost
