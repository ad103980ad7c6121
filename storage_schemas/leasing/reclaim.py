"""Find and delete orphaned files; anything under a live lease is never selected."""

import time
from collections.abc import Iterable

from soapworks.errors import DamagedProductError, InputError, StoreError
from soapworks.storage_schemas.layout.names import PARTIAL
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.leasing.lease_state import live_lease
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Product, read_product
from soapworks.storage_schemas.publishing.records import ATTEMPT_NAME, RECIPE, RECORD

_LOOK_AGAIN = 0.2


def abandoned(
    addresses: Iterable[Location], lease_seconds: float, patience: float = 0.0
) -> list[tuple[Location, int]]:
    """Return what no record names and no live lease protects, with its bytes.

    Attempts that were never published, files written aside and never renamed, files of dead
    leases, and the recipes of products that have neither data nor record. Finished parts of an
    abandoned attempt would still be reused by the next one: the caller decides about them.

    Parameters
    ----------
    addresses
        The products' folders.
    lease_seconds
        Expiry of leases whose file cannot be read.
    patience
        Longest wait for leases to expire, seconds; a lease counts as live until it has expired.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    addresses = list(addresses)
    deadline = time.monotonic() + patience
    while True:
        live = {a for a in addresses if live_lease(a, default_seconds=lease_seconds)}
        if not live or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_AGAIN)
    return [
        item
        for address in addresses
        if address not in live
        for item in _leftovers(address, own_lease=None)
    ]


def discard(root: Location, location: Location, lease_seconds: float) -> bool:
    """Delete something abandoned; False if it is in use by now, or gone.

    Parameters
    ----------
    root
        The store.
    location
        One of the locations of :func:`abandoned`.
    """
    path = location.url.removeprefix(root.url + "/").split("/")
    if not location.url.startswith(root.url + "/") or len(path) < 3:
        raise InputError(f"{location} is not something abandoned in the store {root}")
    address = root / "/".join(path[:2])
    lease = leases.acquire(address, lease_seconds)
    if lease is None:
        return False
    try:
        still = any(location == item for item, _ in _leftovers(address, own_lease=lease.file))
        if still:
            location.delete()
    finally:
        lease.release()
    address.delete_if_empty()
    return still


def delete(address: Location, lease_seconds: float) -> None:
    """Delete a product: its record first, so that nobody finds it half deleted.

    Raises
    ------
    StoreError
        While another process holds its lease.
    """
    with leases.held(address, lease_seconds) as lease:
        (address / RECORD).delete_file()
        for name in address.names():
            if name != lease.file.name:
                (address / name).delete()
    address.delete_if_empty()


def _leftovers(address: Location, *, own_lease: Location | None) -> list[tuple[Location, int]]:
    """Return what lies around at one address whose lease is ours or dead."""
    try:
        product = read_product(address)
        if product is not None and product.forgotten():
            return []
    except (DamagedProductError, StoreError):
        return []  # its data may still be needed, to mend it or by a later version
    sizes = address.sizes()
    found: dict[Location, int] = {}
    for path, size in sizes.items():
        top = path.split("/")[0]
        if product is not None and top == product.data.name:
            if path.removeprefix(top + "/") not in product.record["files"]:
                found[address / path] = size
        elif ATTEMPT_NAME.fullmatch(top):
            found[address / top] = found.get(address / top, 0) + size
        elif top == path and path != (own_lease.name if own_lease else None):
            lease = path.startswith("lease-")
            if lease or path.endswith(PARTIAL) or (product is None and path == RECIPE):
                found[address / path] = size
    return _with_empty_attempts(address, product, found)


def _with_empty_attempts(
    address: Location, product: Product | None, found: dict[Location, int]
) -> list[tuple[Location, int]]:
    # On a disk an attempt may be a folder without files.
    for name in address.names():
        named = product is not None and name == product.data.name
        if ATTEMPT_NAME.fullmatch(name) and not named:
            found.setdefault(address / name, 0)
    return sorted(found.items(), key=lambda item: item[0].url)
