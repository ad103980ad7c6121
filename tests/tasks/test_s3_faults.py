"""What goes wrong with S3, told in one sentence, for store, photographs and checkpoints."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest

from soapworks.backbones import open_checkpoint
from soapworks.errors import SoapworksError, StoreError
from soapworks.images.listing import open_folder
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.locations.objects import Objects
from tests.s3_server import SECRET, S3Server, forget_connections
from tests.tasks.conftest import run_stages

READERS: dict[str, Callable[[str], Any]] = {
    "store": lambda url: Location.parse(url).names(),
    "photographs": lambda url: open_folder(url).list(),
    "checkpoint": lambda url: open_checkpoint(url),
}


@pytest.fixture(autouse=True)
def new_connections(s3_server: S3Server) -> Iterator[None]:
    """Settings that a test changes count for it, and for it alone."""
    forget_connections()
    yield
    forget_connections()


@pytest.fixture(params=list(READERS))
def read(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return READERS[request.param]


def user_message(read: Callable[[str], Any], url: str = "s3://some-bucket/folder") -> str:
    with pytest.raises(SoapworksError) as told:
        read(url)
    words = str(told.value)
    assert url in words
    assert "\n" not in words
    return words


def test_a_wrong_key(read: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    words = user_message(read)
    assert "ermission denied" in words
    assert "not-the-secret" not in words
    assert SECRET not in words


def test_no_credentials(
    read: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "no credentials were found: set AWS_ACCESS_KEY_ID" in user_message(read)


def test_nothing_at_the_endpoint(
    read: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
        assert f"nothing answers at {nobody}" in user_message(read)


def test_a_protocol_without_its_driver(read: Callable[[str], Any]) -> None:
    words = user_message(read, "gs://some-bucket/folder") if read is not READERS["store"] else ""
    if not words:
        with pytest.raises(SoapworksError) as told:
            read("gs://some-bucket/folder")
        words = str(told.value)
    assert "gs://" in words
    assert "install gcsfs" in words


def test_a_bucket_that_is_missing_is_not_written_to() -> None:
    with pytest.raises(StoreError, match="no such bucket; create it, or choose another"):
        Location.parse("s3://not-made/store/file").write_bytes(b"one")


def test_rights_that_end_half_way_lose_nothing(
    request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("s3").mkdir("half-way")
    bucket = {"store": "s3://half-way/store", "layers": "norm"}
    original, left = Objects.write, [12]

    def write(self: Objects, path: str, data: bytes, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise PermissionError("Access Denied")
        original(self, path, data, **options)

    monkeypatch.setattr(Objects, "write", write)
    with pytest.raises(StoreError, match="permission denied; check the rights and credentials"):
        run_stages(request_of(**bucket))
    monkeypatch.setattr(Objects, "write", original)
    done = {product.key for product in request_of(**bucket).store().products()}
    assert done
    (there,) = run_stages(request_of(**bucket))
    (here,) = run_stages(request_of(layers="norm"))
    assert done < {product.key for product in request_of(**bucket).store().products()}
    one, other = request_of(**bucket).store(), request_of(layers="norm").store()
    assert one.product(there["key"]).record["files"] == other.product(here["key"]).record["files"]
