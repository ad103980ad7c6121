"""The same promises in a bucket; several processes are in test_races.py."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from soapworks.errors import DamagedProductError, MissingProductError, StoreError, UnreachableError
from soapworks.storage_schemas.locations import objects
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import N_BLOCKS, Toy, block_values, get_or_make, make, write_blocks


def test_one_of_many_puts_the_object(s3_store):
    target = s3_store.location / "toys/record.json"
    together = threading.Barrier(8)

    def put(i: int) -> bool:
        together.wait()
        return target.create(b"%d" % i)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert sum(won) == 1
    assert target.read_bytes() == b"%d" % won.index(True)
    assert not target.create(b"later")


def test_a_product_in_a_bucket(s3_store, tmp_path):
    product, made = get_or_make(s3_store, Toy())
    assert made
    assert get_or_make(s3_store, Toy()) == (product, False)
    assert product.record["files"] == get_or_make(Store(tmp_path), Toy())[0].record["files"]
    np.testing.assert_array_equal(product.open_zarr()["features"][4:8], block_values(1))
    assert product.read("table.txt") == b"a table\n"
    assert product.verify() == []
    assert s3_store.product(product.location.url) == s3_store.product(product.key[:8]) == product
    assert s3_store.products() == [product]
    assert s3_store.free_bytes() is None
    assert (s3_store.location / "toys").sizes()
    assert s3_store.abandoned() == []


def test_parts_are_taken_over_and_damage_is_mended(s3_store):
    with s3_store.claim(Toy()) as attempt:
        write_blocks(attempt, range(2))
    assert len(s3_store.abandoned()) == 2
    with s3_store.claim(Toy()) as attempt:
        assert write_blocks(attempt) == [2, 3]
        product = attempt.publish({})
    shard = product.data / "arrays.zarr/features/c/1/0/0"
    data = shard.read_bytes()
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert [damage.reason for damage in product.verify()] == ["was changed"]
    shard.delete()
    assert s3_store.find(Toy()) is None
    attempt = s3_store.claim(Toy())
    assert len(attempt.writer.finished_parts()) == N_BLOCKS - 1
    product = make(attempt)
    assert product.verify() == []
    s3_store.delete(product)
    assert s3_store.location.sizes() == {}


@pytest.fixture
def asked(monkeypatch):
    """Return the requests made, as (method, object's name)."""
    from s3fs import S3FileSystem

    real, asked = S3FileSystem._call_s3, []

    async def note(fs, method, *args, **kwargs):
        asked.append((method, kwargs.get("Key", "").rpartition("/")[2]))
        return await real(fs, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", note)
    return asked


def test_metadata_in_the_making_are_written_and_not_asked_for(s3_store, asked):
    with s3_store.claim(Toy()) as attempt:
        group = attempt.writer.zarr_group(mode="w")
        group.create_array("numbers", shape=(4,), dtype="int32")[...] = 1
        attempt.publish({})
    assert [method for method, name in asked if name == "zarr.json"] == ["put_object"] * 2


def test_published_files_are_read_in_one_request_each(s3_store, asked):
    product, _ = get_or_make(s3_store, Toy())
    asked.clear()
    array = product.open_zarr()["features"]
    np.testing.assert_array_equal(array[4:8], block_values(1))
    assert {method for method, name in asked if name != "record.json"} == {"get_object"}
    assert len([name for _, name in asked if name != "record.json"]) == 3


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101])
def test_small_objects_are_read_in_one_request(s3_store, asked, size):
    data = bytes(range(size))
    target = s3_store.location / "a"
    target.write_bytes(data)
    asked.clear()
    assert target.read_bytes(limit=99) == data[:100]
    assert target.digest() == (size, hashlib.sha256(data).hexdigest())
    assert {method for method, _ in asked} == {"get_object"}
    with pytest.raises(MissingProductError):
        (s3_store.location / "b").read_bytes(limit=99)
    target.delete_file()
    target.delete_file()
    assert not target.exists()


def test_objects_of_whole_pieces_are_digested(s3_store, monkeypatch):
    monkeypatch.setattr(objects, "_PIECE", 10)
    for data in (bytes(9), bytes(10), bytes(20), bytes(21)):
        (s3_store.location / "a").write_bytes(data)
        expected = len(data), hashlib.sha256(data).hexdigest()
        assert (s3_store.location / "a").digest() == expected


def test_a_server_that_is_silent_is_asked_few_times(s3_store, monkeypatch):
    from aiobotocore.client import AioBaseClient
    from botocore.exceptions import ReadTimeoutError

    product, _ = get_or_make(s3_store, Toy())
    asked = []

    async def wait_in_vain(client, method, arguments):
        asked.append(method)
        raise ReadTimeoutError(endpoint_url="http://silent")

    array = product.open_zarr()["features"]
    monkeypatch.setattr(AioBaseClient, "_make_api_call", wait_in_vain)
    # Each time stands for all that botocore tries by itself.
    for ask, most in ((lambda: product.read("table.txt"), 4), (lambda: array[4:8], 4)):
        asked.clear()
        with pytest.raises(UnreachableError, match="silent"):
            ask()
        assert 1 <= len(asked) <= most


def test_a_bucket_that_is_missing_is_told(s3_endpoint):
    store = Store("s3://no-such-bucket/store")
    assert store.products() == []
    with pytest.raises(StoreError, match="no-such-bucket"):
        store.claim(Toy())


def test_a_server_that_is_gone_is_told_without_secrets(s3_store, monkeypatch):
    import s3fs

    async def broken(*_args, **_kwargs):
        raise ConnectionResetError("Connection reset by peer")

    product, _ = get_or_make(s3_store, Toy())
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", broken)
    for ask in (
        lambda: s3_store.find(Toy()),
        lambda: s3_store.claim(Toy(n=1)),
        lambda: product.read("table.txt"),
        lambda: product.open_zarr(),
        lambda: (s3_store.location / "a").create(b"x"),
    ):
        with pytest.raises(StoreError, match="check that the store can be reached") as told:
            ask()
        assert not isinstance(told.value, DamagedProductError)


@pytest.mark.parametrize(("status", "outcome"), [(412, False), (501, True), (409, "again")])
def test_answers_to_a_conditional_put(s3_store, monkeypatch, status, outcome):
    from botocore.exceptions import ClientError
    from s3fs import S3FileSystem

    real, calls = S3FileSystem._call_s3, []

    async def answer(fs, method, *args, **kwargs):
        if "IfNoneMatch" in kwargs and not calls:
            calls.append(method)
            response = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise OSError(22, "no") from ClientError(response, "PutObject")
        return await real(fs, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", answer)
    target = s3_store.location / "a"
    assert target.create(b"x") is (outcome is not False)
    assert target.exists() is (outcome is not False)
    assert calls == ["put_object"]


def test_locations_and_products_travel(s3_store):
    import pickle

    product, _ = get_or_make(s3_store, Toy())
    again: Product = pickle.loads(pickle.dumps(product))
    assert again.verify() == []
    assert isinstance(again.location, Location)
