from collections.abc import Callable, Iterator

import pytest

from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import Worker


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store", lease_seconds=1.0)


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    """Start workers; each has said "ready" and waits for a word. All are ended."""
    workers: list[Worker] = []

    def start_one(mode: str, store: Store, *, host: str = "") -> Worker:
        worker = Worker(mode, store, host=host)
        workers.append(worker)
        return worker

    yield start_one
    for worker in workers:
        worker.close()


@pytest.fixture
def s3_store(s3_endpoint, request) -> Store:
    import boto3

    bucket = "works-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50]
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=bucket.rstrip("-"))
    client.close()
    return Store(f"s3://{bucket.rstrip('-')}/store", lease_seconds=1.0)
