import errno
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from soapworks.errors import InputError, StoreError
from soapworks.storage_schemas.leasing.leases import LeaseLostError
from soapworks.storage_schemas.publishing.attempts import Attempt
from soapworks.storage_schemas.publishing.products import Product, read_product
from soapworks.storage_schemas.publishing.records import encode_record
from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import (
    N_BLOCKS,
    Toy,
    array_of,
    block_values,
    get_or_make,
    make,
    write_blocks,
)


def leave_parts(store: Store, n_parts: int = N_BLOCKS - 1) -> Path:
    """Leave an attempt unpublished with some finished parts; return its folder."""
    with store.claim(Toy()) as attempt:
        write_blocks(attempt, range(n_parts))
    return Path(attempt.location.url)


def test_a_published_product_holds_what_was_written(store):
    product, made = get_or_make(store, Toy())
    assert made
    array = product.open_zarr()["features"]
    for number in range(N_BLOCKS):
        np.testing.assert_array_equal(array[4 * number : 4 * number + 4], block_values(number))
    assert product.read("table.txt") == b"a table\n"
    assert product.facts == {"n_blocks": N_BLOCKS}
    assert product.recipe == {"kind": "toys", "n": 0}
    assert (product.kind, product.slug, product.key) == ("toys", "toy-n0", Toy().key)
    assert product.verify() == []
    with pytest.raises(Exception, match="read-only"):
        product.open_zarr()["features"][0] = 0


def test_every_file_is_in_the_record_with_its_digest(store):
    product, _ = get_or_make(store, Toy())
    folder = Path(product.data.url)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {path: (f.bytes, f.sha256) for path, f in product.files.items()} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()
    }


def test_equal_recipes_make_equal_files(tmp_path):
    first, second = (get_or_make(Store(tmp_path / name), Toy())[0] for name in "ab")
    assert first.record["files"] == second.record["files"]
    assert first.facts == second.facts
    assert first.data.name != second.data.name


def test_digests_are_taken_without_reading_back(store, monkeypatch):
    from soapworks.storage_schemas.locations.disk import Disk

    def refuse(*_args):
        raise AssertionError("read back")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "digest", refuse)
        product, made = get_or_make(store, Toy())
    assert made
    assert product.verify() == []


def test_nothing_is_seen_before_it_is_published(store):
    with store.claim(Toy()) as attempt:
        write_blocks(attempt)
        assert store.find(Toy()) is None
        assert store.products() == []
        attempt.publish({})
        assert store.find(Toy()) is not None


def test_an_attempt_without_finished_parts_leaves_nothing(store):
    with store.claim(Toy()) as attempt:
        array_of(attempt)[:4] = 1
    assert store.address(Toy()).names() == ["recipe.json"]


def test_finished_parts_are_taken_over_and_others_made(store, tmp_path):
    left = leave_parts(store)
    shard = left / "arrays.zarr/features/c/0/0/0"
    inode = shard.stat().st_ino
    attempt = store.claim(Toy())
    assert len(attempt.writer.finished_parts()) == N_BLOCKS - 1
    with attempt:
        assert write_blocks(attempt) == [N_BLOCKS - 1]
        attempt.writer.write("table.txt", b"a table\n")
        product = attempt.publish({"n_blocks": N_BLOCKS})
    assert Path(product.data.url, "arrays.zarr/features/c/0/0/0").stat().st_ino == inode
    assert not left.exists()
    assert product.record["files"] == get_or_make(Store(tmp_path / "b"), Toy())[0].record["files"]


@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone", "note torn", "note lies", "link"])
def test_a_part_that_is_not_whole_is_made_again(store, tmp_path, harm):
    left = leave_parts(store)
    shard, note = left / "arrays.zarr/features/c/1/0/0", left / "parts/block-1.json"
    data = bytearray(shard.read_bytes())
    if harm == "truncated":
        shard.write_bytes(data[:-1])
    elif harm == "flipped":
        data[5] ^= 1
        shard.write_bytes(data)
    elif harm == "gone":
        shard.unlink()
    elif harm == "note torn":
        note.write_bytes(note.read_bytes()[:40])
    elif harm == "note lies":
        content = json.loads(note.read_bytes())
        content["files"] = {"../../../outside": next(iter(content["files"].values()))}
        note.write_text(json.dumps(content))
    else:
        (tmp_path / "outside").write_bytes(data)
        shard.unlink()
        shard.symlink_to(tmp_path / "outside")
    attempt = store.claim(Toy())
    assert attempt.writer.finished_parts() == {"block-0", "block-2"}
    product = make(attempt)
    assert product.verify() == []
    assert product.record["files"] == get_or_make(Store(tmp_path / "b"), Toy())[0].record["files"]


def test_a_writer_left_behind_does_not_change_what_was_taken_over(store):
    with store.claim(Toy()) as old:
        array = array_of(old)
        write_blocks(old, range(2))
        array = old.writer.zarr_group()["features"]
    new = store.claim(Toy())
    array[:4] = 0
    product = make(new)
    np.testing.assert_array_equal(product.open_zarr()["features"][:4], block_values(0))


def test_making_an_array_anew_keeps_finished_parts(store):
    with store.claim(Toy()) as attempt:
        write_blocks(attempt)
        array_of(attempt)
        product = attempt.publish({})
    assert product.verify() == []
    assert len([path for path in product.files if "/c/" in path]) == N_BLOCKS


def test_writers_work_in_other_hands(store):
    with store.claim(Toy()) as attempt:
        array_of(attempt)
        writer = pickle.loads(pickle.dumps(attempt.writer))
        array = pickle.loads(pickle.dumps(writer.zarr_group()["features"]))
        array[:4] = 1
        writer.finish_part("block-0", ["arrays.zarr/features/c/0"])
        assert attempt.writer.finished_parts() == {"block-0"}
        assert attempt.publish({}).verify() == []


def test_a_part_needs_files_that_were_written_here(store):
    with store.claim(Toy()) as attempt:
        array_of(attempt)[4:8] = 1
        with pytest.raises(InputError, match="wrote no file"):
            attempt.writer.finish_part("block-0", ["arrays.zarr/features/c/0"])
        # "c/1" is a folder, not the beginning of a name.
        attempt.writer.write("c/12", b"x")
        with pytest.raises(InputError, match="wrote no file"):
            attempt.writer.finish_part("block-0", ["c/1"])


def test_chunks_of_fill_value_count_as_finished(store):
    with store.claim(Toy()) as attempt:
        array_of(attempt)[:4] = 0
        attempt.writer.finish_part("block-0", ["arrays.zarr/features/c/0"])
        assert attempt.publish({}).verify() == []


@pytest.mark.parametrize("name", ["../a", "/a", "parts/a", "a.partial", "a\\b", ""])
def test_names_that_are_not_the_writers_are_refused(store, name):
    with store.claim(Toy()) as attempt:
        with pytest.raises(InputError):
            attempt.writer.write(name, b"x")
        with pytest.raises(InputError):
            attempt.writer.zarr_group(name)


def test_publishing_needs_every_file_whole_and_accounted_for(store):
    with store.claim(Toy()) as attempt:
        folder = Path(attempt.location.url)
        with pytest.raises(InputError, match="nothing was written"):
            attempt.publish({})
        write_blocks(attempt)
        with pytest.raises(InputError, match="plain JSON"):
            attempt.publish({"array": np.zeros(1)})
        (folder / "stray").write_bytes(b"x")
        with pytest.raises(StoreError, match="outside of every finished part"):
            attempt.publish({})
        (folder / "stray").unlink()
        shard = folder / "arrays.zarr/features/c/1/0/0"
        data = shard.read_bytes()
        shard.write_bytes(data[:-1])
        with pytest.raises(StoreError, match="not whole"):
            attempt.publish({})
        shard.unlink()
        with pytest.raises(StoreError, match="is missing"):
            attempt.publish({})
        shard.write_bytes(data)
        assert attempt.publish({}).verify() == []


def test_files_left_aside_by_a_killed_writer_do_not_matter(store):
    with store.claim(Toy()) as attempt:
        write_blocks(attempt)
        Path(attempt.location.url, "a.0123.partial").write_bytes(b"torn")
        product = attempt.publish({})
    assert not any("partial" in path for path in product.files)


def test_the_record_of_another_is_adopted(store):
    with store.claim(Toy()) as attempt:
        write_blocks(attempt)
        # Another process publishes in the moment between the last check and the record.
        winner = publish_behind(store, attempt)
        assert attempt.publish({}) == winner
    assert not attempt.location.exists()
    assert store.find(Toy()).data == winner.data


def test_without_its_lease_an_attempt_is_not_published(store):
    with store.claim(Toy()) as attempt:
        write_blocks(attempt)
        (attempt.address / "lease-000002.json").write_bytes(b'{"token": "another"}')
        with pytest.raises(LeaseLostError, match="taken over"):
            attempt.publish({})
        assert attempt.lost
    assert store.find(Toy()) is None
    assert attempt.address.names() == [attempt.location.name, "lease-000002.json", "recipe.json"]


def publish_behind(store: Store, attempt: Attempt) -> Product:
    other = attempt.address / "attempt-0123456789ab"
    (other / "a").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    record = {
        "format": 1,
        "kind": "toys",
        "key": Toy().key,
        "attempt": other.name,
        "files": {"a": {"bytes": 0, "sha256": empty}},
        "facts": {},
    }
    (attempt.address / "record.json").write_bytes(encode_record(record))
    return read_product(attempt.address)


def test_a_full_disk_while_shards_are_written_is_told_and_mended(store, monkeypatch, tmp_path):
    import zarr.storage._local as local

    real, room = local._put, [2]

    def put(path, value, exclusive=False):
        if "/c/" in str(path):
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, value, exclusive=exclusive)

    monkeypatch.setattr(local, "_put", put)
    with pytest.raises(StoreError, match=r"no space left.*--store"), store.claim(Toy()) as attempt:
        write_blocks(attempt)
    assert store.find(Toy()) is None
    room[0] = 100
    attempt = store.claim(Toy())
    assert len(attempt.writer.finished_parts()) == 2
    product = make(attempt)
    assert product.record["files"] == get_or_make(Store(tmp_path / "b"), Toy())[0].record["files"]
