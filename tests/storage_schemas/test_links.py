"""Symbolic links in a store: read where a whole kind is one, never written or deleted through."""

from collections.abc import Callable
from pathlib import Path

import pytest

from soapworks.errors import StoreError
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import Toy, get_or_make, make, write_blocks

REFUSED = r"cannot (write|delete) .* is a symbolic link, which is not followed"


@pytest.fixture
def product(store: Store) -> Product:
    return get_or_make(store, Toy())[0]


def move_out(place: Location, outside: Path) -> Path:
    """Move a folder of the store elsewhere and leave a link; return where it is now."""
    outside.mkdir()
    moved = Path(place.url).rename(outside / "moved")
    Path(place.url).symlink_to(moved)
    return moved


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def empty_the_place(store: Store, product: Product) -> None:
    (product.location / "record.json").delete_file()


OPERATIONS: dict[str, Callable[[Store, Product], object]] = {
    "delete": lambda store, product: store.delete(product),
    "withdraw": lambda store, product: store.withdraw(product),
    "discard": lambda store, product: store.discard(product.location / "x.partial"),
    "write": lambda store, product: (product.location / "x").write_bytes(b"1"),
    "create": lambda store, product: (product.location / "x").create(b"1"),
    "copy": lambda store, product: (product.location / "x").copy_from(product.data / "table.txt"),
    "empty": empty_the_place,
    "delete data": lambda store, product: (product.data / "parts").delete(),
    "zarr": lambda store, product: product.location.zarr_store(read_only=False),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("link", ["kind", "product"])
def test_nothing_is_changed_behind_a_link(
    store: Store, product: Product, tmp_path: Path, link: str, operation: str
) -> None:
    (product.location / "x.partial").write_bytes(b"left over")
    place = product.location if link == "product" else product.location.parent
    moved = move_out(place, tmp_path / "outside")
    before = files(moved)
    with pytest.raises(StoreError, match=REFUSED):
        OPERATIONS[operation](store, product)
    assert files(moved) == before


def test_what_lies_behind_a_linked_kind_is_read_and_not_made(
    store: Store, product: Product, tmp_path: Path
) -> None:
    move_out(product.location.parent, tmp_path / "outside")
    assert store.find(Toy()) == product
    assert product.verify() == []
    with pytest.raises(StoreError, match=REFUSED):
        store.claim(Toy(n=1))


def test_empty_folders_behind_a_link_stay(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside" / "empty").mkdir(parents=True)
    Path(store.url).mkdir()
    (Path(store.url) / "toys").symlink_to(tmp_path / "outside")
    (store.location / "toys" / "empty").delete_if_empty()
    assert (tmp_path / "outside" / "empty").exists()


def test_a_link_is_deleted_as_what_it_is(store: Store, product: Product, tmp_path: Path) -> None:
    moved = move_out(product.data, tmp_path / "outside")
    before = files(moved)
    store.delete(product)
    assert files(moved) == before
    assert not Path(product.location.url).exists()


def test_the_data_of_a_linked_attempt_are_made_anew(
    store: Store, product: Product, tmp_path: Path
) -> None:
    moved = move_out(product.data, tmp_path / "outside")
    before = files(moved)
    assert make(store.claim(Toy())).verify() == []
    assert files(moved) == before


def test_a_store_that_is_a_link_itself_is_used(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "large")
    store = Store(tmp_path / "store")
    with store.claim(Toy()) as attempt:
        write_blocks(attempt)
        product = attempt.publish({})
    store.delete(product)
    assert list((tmp_path / "large").rglob("*")) == [tmp_path / "large" / "toys"]
