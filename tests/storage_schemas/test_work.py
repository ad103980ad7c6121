"""Work of an attempt: kept for whoever goes on, and no part of the product."""

from pathlib import Path

import pytest

from soapworks.storage_schemas.publishing import attempts
from soapworks.storage_schemas.publishing.attempts import Attempt
from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import Toy


def work_on(attempt: Attempt, *blocks: int) -> None:
    for number in blocks:
        attempt.writer.write(f"work/block-{number}.bin", bytes([number]) * 10)
        attempt.writer.finish_part(f"block-{number}", [f"work/block-{number}.bin"])


def all_files(store: Store) -> set[str]:
    folder = Path(store.url)
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_work_is_neither_recorded_nor_left(store):
    with store.claim(Toy()) as attempt:
        work_on(attempt, 0, 1)
        attempt.writer.write("total.bin", b"3")
        product = attempt.publish({})
    assert set(product.files) == {"total.bin"}
    assert product.verify() == []
    assert all_files(store) == {"recipe.json", "record.json", "total.bin"}
    assert not (Path(product.data.url) / "parts").exists()


def test_parts_of_the_product_stay(store):
    with store.claim(Toy()) as attempt:
        work_on(attempt, 0)
        attempt.writer.write("half.bin", b"1")
        attempt.writer.write("work/mixed.bin", b"1")
        attempt.writer.finish_part("half", ["half.bin", "work/mixed.bin"])
        product = attempt.publish({})
    assert set(product.files) == {"half.bin", "parts/half.json"}


def test_finished_work_is_taken_over(store):
    with store.claim(Toy()) as attempt:
        work_on(attempt, 0, 1)
    with store.claim(Toy()) as attempt:
        assert attempt.writer.finished_parts() == {"block-0", "block-1"}
        assert (attempt.location / "work/block-1.bin").read_bytes() == b"\x01" * 10
        attempt.writer.write("total.bin", b"3")
        attempt.publish({})
    assert all_files(store) == {"recipe.json", "record.json", "total.bin"}


def test_work_is_there_until_the_record_is(store, monkeypatch: pytest.MonkeyPatch):
    """Killed at the last moment before the product exists: nothing is to be done again."""

    class Killed(BaseException):
        pass

    def die(record: object) -> bytes:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "encode_record", die)
        with store.claim(Toy()) as attempt:
            work_on(attempt, 0, 1)
            attempt.writer.write("total.bin", b"3")
            with pytest.raises(Killed):
                attempt.publish({})
    with store.claim(Toy()) as attempt:
        assert attempt.writer.finished_parts() == {"block-0", "block-1"}


def test_work_that_outlived_its_product_is_abandoned(store, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch, store.claim(Toy()) as attempt:
        patch.setattr(Attempt, "_drop_work", lambda self, notes: None)
        work_on(attempt, 0)
        attempt.writer.write("total.bin", b"3")
        product = attempt.publish({})
    assert store.find(Toy()) == product
    found = {location.name for location, _ in store.abandoned()}
    assert found == {"block-0.bin", "block-0.json"}
    assert all(store.discard(location) for location, _ in store.abandoned())
    assert product.verify() == []
    assert all_files(store) == {"recipe.json", "record.json", "total.bin"}
