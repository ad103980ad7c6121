"""The whole way with store, photographs and checkpoint in a bucket."""

from pathlib import Path

import boto3

from tests.tasks.conftest import Forwards, run_stages


def test_scores_in_a_bucket_are_those_on_disk(
    request_of, checkpoint: Path, photographs: Path, s3_endpoint: str, forwards: Forwards
) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="photographs")
    client.create_bucket(Bucket="works")
    for path in photographs.iterdir():
        client.upload_file(str(path), "photographs", f"holiday/{path.name}")
    for path in checkpoint.iterdir():
        client.upload_file(str(path), "works", f"models/small/{path.name}")
    client.close()
    bucket = {
        "checkpoint": "s3://works/models/small",
        "images": "s3://photographs/holiday",
        "store": "s3://works/store",
    }
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
