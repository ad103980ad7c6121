"""Folders of images behind ``s3://``, against a local stand-in for the service."""

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from soapworks.errors import ImageError, InputError
from soapworks.images.listing import open_folder


@pytest.fixture(scope="module")
def bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3 = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3.clear_instance_cache()
        system = fsspec.filesystem("s3")
        system.mkdir("bucket")
        for key in ("photos/b.jpg", "photos/sub/A.PNG", "photos/.h/x.jpg", "photos2/z.jpg"):
            system.pipe(f"bucket/{key}", key.encode())
        system.pipe("bucket/photos/empty.jpg", b"")
        system.pipe("bucket/notes/a.txt", b"x")
        for key in ("versions/a.jpg", "versions/b?versionId=1.jpg"):
            system.call_s3("put_object", Bucket="bucket", Key=key, Body=b"x")
        yield system
    s3.clear_instance_cache()
    server.stop()


def test_prefix_is_a_folder_with_etags(bucket):
    files = open_folder("s3://bucket/photos/").list()
    assert [file.path for file in files] == ["b.jpg", "empty.jpg", "sub/A.PNG"]
    assert [file.size for file in files] == [12, 0, 16]
    assert files[0].fingerprint.startswith('12:ETag="')
    assert files == open_folder("s3://bucket/photos").list()


def test_objects_are_read_fresh(bucket):
    folder = open_folder("s3://bucket/photos")
    assert folder.read("sub/A.PNG") == b"photos/sub/A.PNG"
    assert folder.read("empty.jpg") == b""
    before = folder.list()[0]
    elsewhere = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    elsewhere.pipe("bucket/photos/b.jpg", b"PHOTOS/b.jpg")  # same size
    assert folder.read("b.jpg") == b"PHOTOS/b.jpg"
    assert folder.list()[0].fingerprint != before.fingerprint
    bucket.pipe("bucket/photos/b.jpg", b"photos/b.jpg")


def test_what_cannot_be_read(bucket):
    folder = open_folder("s3://bucket/photos")
    with pytest.raises(ImageError, match="no longer there"):
        folder.read("gone.jpg")
    with pytest.raises(ImageError, match="longer than the limit"):
        folder.read("b.jpg", max_bytes=11)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/notes", r"no image in s3://bucket/notes: .* 1 other file \(1 .txt\)"),
        ("s3://bucket/photo", "there is no folder"),
        ("s3://no-bucket/photos", "there is no folder"),
        ("s3://bucket/photos/b.jpg", "is a file, not a folder"),
    ],
)
def test_what_cannot_be_listed(bucket, url, message):
    with pytest.raises(InputError, match=message):
        open_folder(url).list()


def test_a_key_that_s3fs_takes_for_a_version_is_refused(bucket):
    found = open_folder("s3://bucket/versions").survey()
    assert [file.path for file in found.files] == ["a.jpg"]
    assert [entry.path for entry in found.refused] == ["b?versionId=1.jpg"]
