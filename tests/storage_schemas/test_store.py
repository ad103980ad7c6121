import json
import pickle
from pathlib import Path

import pytest

from soapworks.errors import DamagedProductError, InputError, MissingProductError, StoreError
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.publishing.attempts import Attempt
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.publishing.published_store import published_store
from soapworks.storage_schemas.publishing.records import encode_record
from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import N_BLOCKS, Toy, get_or_make, make, write_blocks


@pytest.fixture
def product(store) -> Product:
    return get_or_make(store, Toy())[0]


def shard_of(product: Product, number: int) -> Path:
    return Path(product.data.url, f"arrays.zarr/features/c/{number}/0/0")


def flip(path: Path, at: int = 9) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(data)


def test_what_is_there_is_found_and_never_claimed(store, product):
    assert store.find(Toy()) == product
    assert store.claim(Toy()) == product
    assert store.find(Toy(n=1)) is None
    assert pickle.loads(pickle.dumps(product)) == product


def test_what_was_published_before_the_lease_was_taken_is_not_made_again(store, monkeypatch):
    real, published = leases.acquire, []

    def acquire(folder, seconds):
        if not published:
            published.append(None)
            published[0] = get_or_make(Store(store.url), Toy())[0]
        return real(folder, seconds)

    monkeypatch.setattr(leases, "acquire", acquire)
    assert store.claim(Toy()) == published[0]
    assert store.holder(Toy()) is None


def test_the_address_is_kind_slug_and_key(store):
    assert store.address(Toy()).url == f"{store.url}/toys/toy-n0-{Toy().key[:12]}"


def test_lease_seconds_have_limits(tmp_path):
    for seconds in (0, -1, 1e9, float("nan")):
        with pytest.raises(InputError, match="lease_seconds"):
            Store(tmp_path, lease_seconds=seconds)


@pytest.mark.parametrize(
    "name", ["key", "digits", "12", "address", "path", "file", "url", "slash", "record"]
)
def test_a_product_is_named_in_many_ways(store, product, name):
    names = {
        "key": product.key,
        "digits": product.key[:4],
        "12": product.key[:12],
        "address": product.address,
        "path": product.location.url,
        "file": product.data.url + "/table.txt",
        "url": "file://" + product.location.url,
        "slash": product.address + "/",
        "record": product.location.url + "/record.json",
    }
    assert store.product(names[name]) == product


def test_a_product_that_is_not_there_is_told_with_what_is(store):
    with pytest.raises(MissingProductError, match="is empty; run soapworks score"):
        store.product("0123456789ab")
    product, _ = get_or_make(store, Toy())
    for wanted in ("00000", "toys/toy-n0-000000000000", "nonsense", "/etc/passwd", "../../etc"):
        with pytest.raises(MissingProductError, match=product.location.name):
            store.product(wanted)


def test_digits_of_two_products_are_refused(store):
    keys = {}
    for n in range(2000):
        other = keys.setdefault(Toy(n=n).key[:4], n)
        if other != n:
            break
    for which in (other, n):
        get_or_make(store, Toy(n=which))
    with pytest.raises(MissingProductError, match="stands for 2 products"):
        store.product(Toy(n=n).key[:4])
    assert store.product(Toy(n=n).key[:20]).recipe["n"] == n


def test_all_products_are_listed(store, product):
    get_or_make(store, Toy(n=1))
    store.claim(Toy(n=2)).__exit__(None, None, None)
    assert {p.slug for p in store.products()} == {"toy-n0", "toy-n1"}
    assert store.products("heads") == []
    assert store.kinds() == ["toys"]
    assert store.free_bytes() > 0


@pytest.mark.parametrize("harm", ["shard gone", "shard short", "table gone", "data gone", "link"])
def test_a_damaged_product_is_not_found_and_made_again(store, product, harm, tmp_path):
    files = product.record["files"]
    shard = shard_of(product, 2)
    if harm == "shard gone":
        shard.unlink()
    elif harm == "shard short":
        shard.write_bytes(shard.read_bytes()[:-3])
    elif harm == "table gone":
        (Path(product.data.url) / "table.txt").unlink()
    elif harm == "data gone":
        product.data.delete()
    else:
        Path(product.data.url).rename(tmp_path / "outside")
        Path(product.data.url).symlink_to(tmp_path / "outside")
    assert product.missing()
    assert product.verify()
    assert store.find(Toy()) is None
    attempt = store.claim(Toy())
    assert isinstance(attempt, Attempt)
    assert attempt.damage
    n_whole = {"data gone": 0, "link": 0, "table gone": N_BLOCKS}.get(harm, N_BLOCKS - 1)
    assert len(attempt.writer.finished_parts()) == n_whole
    mended = make(attempt)
    assert mended.record["files"] == files
    assert mended.verify() == []


@pytest.mark.parametrize(
    "file",
    ["arrays.zarr/features/c/3/0/0", "table.txt", "parts/block-1.json", "arrays.zarr/zarr.json"],
)
def test_a_flipped_byte_is_found_and_mended(store, product, file):
    flip(Path(product.data.url) / file)
    damages = product.verify()
    assert [damage.path for damage in damages] == [f"{product.data.name}/{file}"]
    assert "changed" in str(damages[0])
    assert store.withdraw(product)
    assert not store.withdraw(product)
    assert store.find(Toy()) is None
    mended, made = get_or_make(store, Toy())
    assert made
    assert mended.verify() == []
    assert mended.record["files"] == product.record["files"]


def test_small_files_are_checked_when_read(store, product):
    flip(Path(product.data.url) / "table.txt", 2)
    with pytest.raises(DamagedProductError, match=r"table\.txt was changed"):
        product.read("table.txt")
    (Path(product.data.url) / "table.txt").unlink()
    with pytest.raises(DamagedProductError, match=r"table\.txt is missing"):
        product.read("table.txt")
    with pytest.raises(MissingProductError, match="has no file 'other'; it has arrays"):
        product.read("other")
    with pytest.raises(DamagedProductError, match="cannot be opened"):
        product.open_zarr("other.zarr")


def test_a_missing_chunk_is_never_read_as_fill_value(store, product):
    array = product.open_zarr()["features"]
    shard_of(product, 1).unlink()
    assert array[:4].any()
    for read in (array, pickle.loads(pickle.dumps(array))):
        with pytest.raises(DamagedProductError, match="features/c/1/0/0 is missing"):
            read[4:8]
    with pytest.raises(DamagedProductError, match="c/1/0/0 is missing"):
        product.open_zarr()


def test_an_array_of_a_product_made_again_is_told(store, product):
    travelling = pickle.dumps(product.open_zarr()["features"])
    store.withdraw(product)
    made, _ = get_or_make(store, Toy())
    published_store.cache_clear()
    with pytest.raises(DamagedProductError, match="made again"):
        pickle.loads(travelling)
    assert pickle.loads(pickle.dumps(made.open_zarr()["features"]))[0].any()


def test_a_flipped_byte_in_the_recipe_is_found_and_mended(store, product):
    flip(Path(product.location.url) / "recipe.json")
    assert [damage.path for damage in product.verify()] == ["recipe.json"]
    with pytest.raises(DamagedProductError, match="recipe"):
        _ = store.product(product.key).recipe
    store.withdraw(product)
    assert get_or_make(store, Toy())[0].verify() == []


def test_every_flipped_byte_in_the_record_is_found(store, product):
    record = Path(product.location.url) / "record.json"
    whole = record.read_bytes()
    for at in range(0, len(whole), 7):
        flip(record, at)
        assert store.find(Toy()) is None, whole[max(0, at - 20) : at + 20]
        record.write_bytes(whole)
    flip(record, 50)
    assert store.products() == []
    assert [damage.path for damage in store.unreadable()] == [product.address + "/record.json"]
    assert get_or_make(store, Toy())[1]
    assert store.find(Toy()).verify() == []


def test_a_later_format_is_told_and_left_alone(store, product):
    record = Path(product.location.url) / "record.json"
    later = encode_record({**product.record, "format": 2}).decode()
    record.write_text(later)
    for ask in (store.find, store.claim):
        with pytest.raises(StoreError, match="upgrade soapworks"):
            ask(Toy())
    assert store.abandoned() == store.products() == []
    assert "upgrade soapworks" in str(store.unreadable()[0])
    assert record.read_text() == later


def test_a_changed_format_number_is_damage(store, product):
    record = Path(product.location.url) / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "format": 2}))
    assert "was changed" in str(store.unreadable()[0])
    assert get_or_make(store, Toy())[1]


@pytest.mark.parametrize("file", ["features/zarr.json", "zarr.json"])
def test_changed_metadata_are_told_when_opened(store, product, file):
    metadata = Path(product.data.url) / "arrays.zarr" / file
    metadata.write_text(metadata.read_text().replace("16", "17").replace("3", "4"))
    with pytest.raises(DamagedProductError, match=rf"toys/\S+ is damaged: arrays.zarr/{file}"):
        product.open_zarr()["features"]


def test_a_deleted_product_is_gone_and_can_be_made_again(store, product):
    store.delete(product)
    assert store.products() == []
    assert not Path(product.location.url).exists()
    assert get_or_make(store, Toy())[1]


def test_what_is_worked_on_is_not_deleted(store, product):
    shard_of(product, 0).unlink()
    with store.claim(Toy()) as attempt:
        write_blocks(attempt, range(2))
        with pytest.raises(StoreError, match="is being worked on"):
            store.delete(product)
        with pytest.raises(StoreError, match="is being worked on"):
            store.withdraw(product)
        assert store.abandoned() == []
        assert not store.discard(product.data)
        assert product.data.exists()


def test_what_is_abandoned_is_told_and_discarded(store, product):
    (product.data / "x.0123.partial").write_bytes(b"123")
    (product.location / "record.json.0123.partial").write_bytes(b"12")
    with store.claim(Toy(n=1)) as attempt:
        write_blocks(attempt, range(2))
    with store.claim(Toy(n=2)) as empty:
        Path(empty.location.url).mkdir()
    found = dict(store.abandoned())
    assert found == {
        product.data / "x.0123.partial": 3,
        product.location / "record.json.0123.partial": 2,
        attempt.location: sum(attempt.location.sizes().values()),
        attempt.address / "recipe.json": len(Toy(n=1).canonical_json()),
        empty.address / "recipe.json": len(Toy(n=2).canonical_json()),
    }
    for location in found:
        assert store.discard(location)
        assert not store.discard(location)
    assert store.abandoned() == []
    assert store.find(Toy()).verify() == []
    assert [a.name for a in store.addresses()] == [product.location.name]


def test_only_what_is_abandoned_is_discarded(store, product, tmp_path):
    assert not store.discard(product.data)
    for location in (store.location, store.location / "toys", product.location):
        with pytest.raises(InputError, match="not something abandoned"):
            store.discard(location)
    with pytest.raises(InputError, match="not something abandoned"):
        store.discard(Store(tmp_path / "other").location / "toys/a/b")
    assert product.verify() == []


def test_a_lease_that_may_be_alive_protects_until_it_has_expired(store):
    with store.claim(Toy()) as attempt:
        write_blocks(attempt, range(2))
    lease = attempt.address / "lease-000001.json"
    lease.write_bytes(json.dumps({"token": "x", "seconds": 0.3, "host": "elsewhere"}).encode())
    assert store.abandoned() == []
    assert {location.name for location, _ in store.abandoned(patience=20)} == {
        attempt.location.name,
        "recipe.json",
        "lease-000001.json",
    }


def test_a_store_that_cannot_be_written_still_reads(store, product, monkeypatch):
    import errno

    from soapworks.storage_schemas.locations import disk

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(disk, "_write_aside", refuse)
    assert store.claim(Toy()) == product
    with pytest.raises(StoreError, match="read-only"):
        store.claim(Toy(n=1))
