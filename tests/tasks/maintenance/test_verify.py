"""Every damage is found and named."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from soapworks.errors import MissingProductError
from soapworks.storage_schemas.leasing.leases import acquire
from soapworks.storage_schemas.store import Product, Store
from soapworks.tasks.events import Event, StageAdvanced, StageStarted, listening
from tests.tasks.damage import check, flip, named, one, path_of, shard

KINDS = ("checkpoints", "images", "features", "moments", "pca", "responses", "scores", "heads")


def test_a_whole_store(store: Store) -> None:
    found = check(store)
    assert found.damaged == found.unnamed == found.later == ()
    products = store.products()
    assert found.n_products == len(products)
    assert found.n_files == sum(len(product.files) for product in products)
    on_disk = [p for p in Path(store.url).rglob("*") if "attempt-" in str(p) and p.is_file()]
    assert found.n_bytes == sum(path.stat().st_size for path in on_disk)


def every_file(store: Store) -> Iterator[tuple[str, Path]]:
    """Yield address and path of one file of every sort in a store."""
    seen = set()
    for path in sorted(Path(store.url).rglob("*")):
        if path.is_file():
            kind, name, *rest = path.relative_to(store.url).parts
            sort = (kind, len(rest), path.name if "." in path.name else path.parts[-3])
            if sort not in seen:
                seen.add(sort)
                yield f"{kind}/{name}", path


def test_a_flipped_bit_is_found_in_every_file(store: Store) -> None:
    rng = np.random.default_rng(0)
    sorts = list(every_file(store))
    assert {address.split("/")[0] for address, _ in sorts} == set(KINDS)
    assert len(sorts) >= 40
    for address, path in sorts:
        whole = path.read_bytes()
        flip(path, int(rng.integers(len(whole))), 1 << int(rng.integers(8)))
        found = check(store, address)
        relative = str(path.relative_to(store.url))
        assert named(found) == {relative}, (relative, found)
        path.write_bytes(whole)
    assert not check(store).damaged


def test_every_byte_of_a_record_counts(store: Store) -> None:
    product = one(store, "scores")
    record = Path(product.location.url) / "record.json"
    whole = record.read_bytes()
    number = whole.index(b'"format": 1') + len(b'"format": ')
    for at in (number, *range(0, len(whole), 4)):
        # Also what stays readable JSON: spaces for line ends, another number of the format.
        data = bytearray(whole)
        data[at] = ord(" ") if data[at] == ord("\n") else data[at] ^ 2
        record.write_bytes(data)
        assert check(store, product.address).damaged, at


def test_a_missing_file_is_found_in_every_product(store: Store) -> None:
    for kind in KINDS:
        product = one(store, kind)
        for name in product.files:
            path = path_of(product, name)
            path.rename(path.with_name("away"))
            found = check(store, kind)
            (path.with_name("away")).rename(path)
            assert named(found) == {f"{product.address}/{product.data.name}/{name}"}
            assert found.damaged[0].damages[0].reason == "is missing"


def test_a_missing_recipe_is_found(store: Store) -> None:
    product = one(store, "pca")
    (Path(product.location.url) / "recipe.json").unlink()
    assert named(check(store)) == {f"{product.address}/recipe.json"}


def test_a_file_that_was_cut_short_is_told_with_both_sizes(store: Store) -> None:
    product = one(store, "moments")
    path = path_of(product, shard(product))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = check(store, product.key[:8]).damaged
    assert finding.damages[0].reason == f"has {size - 1} bytes instead of {size}"


def test_one_product_by_key_and_one_kind(store: Store) -> None:
    product = one(store, "features")
    flip(path_of(product, shard(product)), 50)
    assert check(store, product.key).n_products == 1
    assert len(check(store, "features").damaged) == 1
    assert not check(store, "heads").damaged
    with pytest.raises(MissingProductError, match="no product 'abcdef'"):
        check(store, "abcdef")


def test_a_damaged_record_is_found_by_key_and_address(store: Store) -> None:
    product = one(store, "heads")
    flip(Path(product.location.url) / "record.json", 3)
    for what in (product.key, product.key[:6], product.address, product.location.url):
        (finding,) = check(store, what).damaged
        assert (finding.address, finding.product) == (product.address, None)


def test_what_no_record_names_is_told_and_is_no_damage(store: Store) -> None:
    head, features = one(store, "heads"), one(store, "features")
    (Path(head.location.url) / "attempt-0123456789ab").mkdir()
    path_of(head, "../attempt-0123456789ab/half").write_bytes(b"12345")
    path_of(features, "notes.txt").write_bytes(b"123")
    (Path(store.url) / "scores" / "stray").write_bytes(b"12")
    found = check(store)
    assert not found.damaged
    assert {(u.path, u.n_files, u.n_bytes) for u in found.unnamed} == {
        (f"{head.address}/attempt-0123456789ab", 1, 5),
        (f"{features.address}/{features.data.name}/notes.txt", 1, 3),
        ("scores/stray", 1, 2),
    }
    Path(features.location.url, "record.json").unlink()
    assert f"{features.address}/{features.data.name}" in {u.path for u in check(store).unnamed}


def test_work_in_progress_is_not_told(store: Store) -> None:
    head = one(store, "heads")
    (Path(head.location.url) / "attempt-0123456789ab").mkdir()
    path_of(head, "../attempt-0123456789ab/half").write_bytes(b"12345")
    lease = acquire(head.location, 60)
    assert lease is not None
    try:
        assert check(store).unnamed == ()
    finally:
        lease.release()


def test_progress_is_told_in_bytes(store: Store) -> None:
    events: list[Event] = []
    with listening(events.append):
        found = check(store)
    (started,) = [e for e in events if isinstance(e, StageStarted)]
    assert (started.total, started.unit) == (found.n_bytes, "bytes")
    assert sum(e.n for e in events if isinstance(e, StageAdvanced)) == found.n_bytes


def test_files_are_digested_piece_by_piece(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of any size is never read whole."""
    from soapworks.storage_schemas.locations.disk import Disk

    def read(self: Disk, path: str, limit: int | None = None) -> bytes:
        assert path.endswith(".json"), path
        return Path(path).read_bytes()

    monkeypatch.setattr(Disk, "read", read)
    assert not check(store).damaged


def test_a_product_that_is_deleted_meanwhile_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = one(store, "heads")
    original = Product.check

    def check_one(self: Product, path: str) -> object:
        store.delete(self)
        return original(self, path)

    monkeypatch.setattr(Product, "check", check_one)
    assert not check(store, product.key).damaged
