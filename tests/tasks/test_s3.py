"""The whole way with store, photographs and checkpoint in a bucket."""

from pathlib import Path

import boto3
import numpy as np
import pytest

from soapworks.tasks import run as stages
from soapworks.tasks.stages.stored_features import open_features, pieces_of
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


@pytest.mark.parametrize(("whole_bytes", "n_requests"), [(1 << 20, 1), (0, 4)])
def test_a_block_is_read_in_one_request(
    request_of, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, whole_bytes: int, n_requests: int
) -> None:
    from s3fs import S3FileSystem

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=f"pieces-{n_requests}")
    client.close()
    request = request_of(store=f"s3://pieces-{n_requests}/store", layers="norm")
    (manifest,), (identity,) = stages.index_stage(request).keys, stages.identify_stage(request).keys
    request = request.planned(manifest, identity)
    stages.extract_stage(request, "synthetic")
    features = request.store().products("features")[0]
    expected = open_features(features)[0:4]
    monkeypatch.setattr("soapworks.tasks.stages.stored_features.WHOLE_BYTES", whole_bytes)
    asked, real = [], S3FileSystem._call_s3

    async def note(fs, method, *arguments, **options):
        asked.append(method)
        return await real(fs, method, *arguments, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", note)
    pieces = list(pieces_of(features, [(n, n + 1) for n in range(4)]))
    assert asked == ["get_object"] * n_requests
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
