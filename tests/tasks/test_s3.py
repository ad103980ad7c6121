"""The whole way with store and photographs in a bucket."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.tasks.conftest import Forwards, run_stages


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
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
        yield os.environ["AWS_ENDPOINT_URL"]
    server.stop()


def test_scores_in_a_bucket_are_those_on_disk(
    request_of, photographs: Path, endpoint: str, forwards: Forwards
) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="photographs")
    client.create_bucket(Bucket="works")
    for path in photographs.iterdir():
        client.upload_file(str(path), "photographs", f"holiday/{path.name}")
    client.close()
    bucket = {"images": "s3://photographs/holiday", "store": "s3://works/store"}
    rows = run_stages(request_of(**bucket, layers="norm"))
    assert forwards.n_images == 31
    again = run_stages(request_of(**bucket, layers="norm"))
    assert forwards.n_images == 31
    assert [row["cached"] for row in rows + again] == [False, True]
    (local,) = run_stages(request_of(layers="norm"))
    assert local["key"] == rows[0]["key"]
    there, here = (
        request_of(**place, layers="norm").store().product(local["key"]) for place in (bucket, {})
    )
    assert there.record["files"] == here.record["files"]
