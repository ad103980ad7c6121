"""S3 that breaks connections, fails, throttles or is gone: retried, or told in a sentence."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

from tests.faults.arena import Arena
from tests.faults.bucket import ENDLESS, Trouble, Unreliable, download, serving, trouble
from tests.faults.many import inject

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

IMPATIENT = {
    # Twice, a second each: the same repetitions as always, but fewer.
    "AWS_MAX_ATTEMPTS": "2",
    "FSSPEC_S3": '{"config_kwargs": {"connect_timeout": 1, "read_timeout": 1}}',
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Unreliable]]:
    with serving() as (url, app):
        yield url, app


@pytest.fixture(scope="module")
def one_layer(arena: Arena) -> Arena:
    """Half of the work: every request costs, and all of them are of the same few sorts."""
    smaller = Arena(arena.scratch(), layers="norm")
    smaller.counts = arena.counts
    return smaller


@pytest.fixture(scope="module")
def n_requests(one_layer: Arena, server: tuple[str, Unreliable]) -> int:
    """Requests that a run makes at least."""
    bucket = Bucket(one_layer, server, 0)
    counted = Trouble("500", at=1 << 30)
    assert bucket.start(counted, lease_seconds=600.0).wait().finished  # so that no heart beats
    n = counted.n_requests  # before the copying, which asks as well
    one_layer.check_whole(bucket.copy())
    return int(0.9 * n)


class Bucket:
    """One store in a bucket of its own."""

    def __init__(self, arena: Arena, server: tuple[str, Unreliable], seed: int) -> None:
        self.url, self.app = server
        self.arena, self.name = arena, f"works-{seed}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket=self.name)

    def start(self, trouble: Trouble | None = None, lease_seconds: float = 2.0) -> Any:
        if trouble:
            self.app.troubles[self.name] = trouble
        environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **IMPATIENT,
        }
        return self.arena.start(
            f"s3://{self.name}/store",
            environment=environment,
            options={"lease_seconds": lease_seconds},
        )

    def copy(self) -> Path:
        """Return a folder with all that is in the bucket now."""
        folder = self.arena.scratch()
        (folder / "store").mkdir()
        download(self.client, self.name, folder)
        return folder / "store"

    def check_recovers(self) -> None:
        self.app.troubles.pop(self.name, None)
        before = self.copy()
        self.arena.check_visible(before)
        outcome = self.start().wait()
        assert outcome.finished, outcome.log
        assert outcome.forwards == self.arena.lacking(before)
        self.arena.check_whole(self.copy())
        self.client.close()


def test_connections_that_break_and_servers_that_fail(
    one_layer: Arena, server: tuple[str, Unreliable], n_requests: int
) -> None:
    def one(seed: int) -> None:
        bucket = Bucket(one_layer, server, seed)
        found = trouble(seed, n_requests)
        outcome = bucket.start(found).wait()
        assert found.n_struck, found
        assert outcome.clear, f"{found}: {outcome.log}"
        assert not (outcome.finished and found.kind in ENDLESS), found
        one_layer.counts[f"s3 {found.kind}"] += 1
        bucket.check_recovers()

    inject(range(8000, 8027), one)


def test_killed_at_a_random_time(one_layer: Arena, server: tuple[str, Unreliable]) -> None:
    def one(seed: int) -> None:
        bucket = Bucket(one_layer, server, seed)
        child = bucket.start()
        child.ended(random.Random(seed).uniform(0.0, one_layer.seconds))
        child.signal(signal.SIGKILL)
        one_layer.counts["kill"] += child.wait().exitcode == -signal.SIGKILL
        bucket.check_recovers()

    with one_layer.at_least("kill", 3):
        inject(range(8100, 8106), one)
