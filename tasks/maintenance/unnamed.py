"""Files in a store that no completion record names: unfinished work, or something foreign."""

from collections import Counter
from dataclasses import dataclass

from soapworks.errors import StoreError
from soapworks.storage_schemas.layout.recipes import RECIPES
from soapworks.storage_schemas.leasing.lease_state import live_lease
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import read_product
from soapworks.storage_schemas.publishing.records import ATTEMPT_NAME, RECIPE, RECORD
from soapworks.storage_schemas.store import Store


@dataclass(frozen=True)
class Unrecorded:
    """Files that no completion record names: unfinished work, or something foreign."""

    path: str
    """Path of the file or folder within the store."""
    n_files: int
    n_bytes: int


def unrecorded_at(store: Store, address: Location) -> list[Unrecorded]:
    """Return what lies at an address beside its product, unless somebody works there."""
    if live_lease(address, default_seconds=store.lease_seconds):
        return []
    try:
        product = read_product(address)
    except StoreError:
        return []
    named = {RECIPE, RECORD} if product else set()
    if product:
        named |= {f"{product.data.name}/{path}" for path in product.record["files"]}
    n_files: Counter[str] = Counter()
    n_bytes: Counter[str] = Counter()
    for path, size in address.sizes().items():
        if path not in named:
            top = path.partition("/")[0]
            own = product is not None and top == product.data.name
            item = top if ATTEMPT_NAME.fullmatch(top) and not own else path
            n_files[item] += 1
            n_bytes[item] += size
    root = f"{address.parent.name}/{address.name}"
    return [Unrecorded(f"{root}/{item}", n_files[item], n_bytes[item]) for item in n_files]


def orphans(store: Store) -> list[Unrecorded]:
    """Return what lies between the products of a known kind."""
    found = []
    for kind in RECIPES:
        products = {address.name for address in store.addresses(kind)}
        for name in (store.location / kind).names():
            if name not in products:
                place = store.location / kind / name
                sizes = place.sizes() or {"": place.size() or 0}
                found.append(Unrecorded(f"{kind}/{name}", len(sizes), sum(sizes.values())))
    return found
