"""Verify what is stored: every byte is read and compared with the completion records.

Files are read in pieces and many at once, product by product, so memory stays small whatever
the store holds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from soapworks.errors import DamagedProductError, StoreError
from soapworks.storage_schemas.layout.kinds import RECIPES
from soapworks.storage_schemas.leasing.lease_state import live_lease
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Damage, Product, read_product
from soapworks.storage_schemas.publishing.records import (
    ATTEMPT_NAME,
    RECIPE,
    RECORD,
    LaterFormatError,
)
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Advance, stage
from soapworks.tasks.executors.threads import compute_each

PIECE_BYTES, PIECE_FILES = 16 << 20, 64
"""What one call reads at most, if it is more than one file: hides the cost of a call."""

FILES_AT_ONCE = 20_000
"""Files whose records are held in memory at once, if they belong to more than one product."""


@dataclass(frozen=True)
class Finding:
    """A product that is damaged."""

    location: Location
    """The product's folder."""
    damages: tuple[Damage, ...]
    """What is wrong, file by file."""
    product: Product | None = None
    """The product; None where its completion record cannot be understood."""

    @property
    def address(self) -> str:
        """Address within the store."""
        return f"{self.location.parent.name}/{self.location.name}"


@dataclass(frozen=True)
class Unrecorded:
    """Files that no completion record names: unfinished work, or something foreign."""

    path: str
    """Path of the file or folder within the store."""
    n_files: int
    n_bytes: int


@dataclass(frozen=True)
class Verification:
    """What a check found."""

    n_products: int
    """Published products that were read."""
    n_files: int
    n_bytes: int
    damaged: tuple[Finding, ...]
    """Damaged products, in the order in which the data flows."""
    unnamed: tuple[Unrecorded, ...]
    later: tuple[str, ...]
    """Sentences about products of a later format, which were not looked at."""


def verify(store: Store, what: str | None = None, *, workers: int) -> Verification:
    """Read everything, or some of it, and tell what is not as it was published.

    Parameters
    ----------
    store
        The store.
    what
        A kind of product, or a product by its key, address or path; everything by default.
    workers
        Threads that read.

    Raises
    ------
    MissingProductError
        If there is no such product.
    StoreError
        If the store cannot be listed.
    """
    addresses = _addresses(store, what)
    looks = list(compute_each(_look, addresses, workers=workers))
    published = [look for look in looks if look.n_files]
    findings = [look.finding for look in looks if look.finding]
    total = sum(look.n_bytes for look in published)
    with stage("verify", store.url, total, "bytes") as advance:
        for group in _together(published):
            findings += _damaged(group, workers, advance)
        unnamed = orphans(store) if what is None else []
        for found in compute_each(partial(unrecorded_at, store), addresses, workers=workers):
            unnamed += found
    order = list(RECIPES)
    return Verification(
        n_products=len(published),
        n_files=sum(look.n_files for look in published),
        n_bytes=total,
        damaged=tuple(sorted(findings, key=lambda f: (_rank(order, f), f.address))),
        unnamed=tuple(unnamed),
        later=tuple(look.later for look in looks if look.later),
    )


@dataclass(frozen=True)
class _Look:
    """What the record of one address says, without its list of files."""

    location: Location
    n_files: int = 0
    n_bytes: int = 0
    finding: Finding | None = None
    later: str = ""


@dataclass(frozen=True)
class _Piece:
    """Some files of a product, read by one call; the first piece has recipe and record too."""

    product: Product
    paths: tuple[str, ...]
    n_bytes: int
    first: bool


def _addresses(store: Store, what: str | None) -> list[Location]:
    if what is None or what in RECIPES:
        return store.addresses(what)
    try:
        return [store.product(what).location]
    except DamagedProductError:
        # Its record is what is damaged: find it by its name.
        wanted = what.rstrip("/")
        return [
            address
            for address in store.addresses()
            if wanted.endswith(f"{address.parent.name}/{address.name}")
            or address.name.rpartition("-")[2].startswith(wanted[:12])
        ]


def _look(address: Location) -> _Look:
    try:
        product = read_product(address)
    except LaterFormatError as error:
        return _Look(address, later=str(error))
    except DamagedProductError:
        damage = Damage(RECORD, "cannot be understood")
        return _Look(address, finding=Finding(address, (damage,)))
    except StoreError as error:
        damage = Damage(RECORD, f"cannot be read ({error})", certain=False)
        return _Look(address, finding=Finding(address, (damage,)))
    if product is None:
        return _Look(address)
    files = product.record["files"].values()
    return _Look(address, len(files), sum(file["bytes"] for file in files))


def _together(looks: Sequence[_Look]) -> Iterator[list[Location]]:
    some: list[Location] = []
    n = 0
    for look in looks:
        if some and n + look.n_files > FILES_AT_ONCE:
            yield some
            some, n = [], 0
        some.append(look.location)
        n += look.n_files
    if some:
        yield some


def _damaged(addresses: Sequence[Location], workers: int, advance: Advance) -> list[Finding]:
    pieces = [
        piece
        for address in addresses
        if (product := _read(address)) is not None
        for piece in _pieces(product)
    ]
    damages: dict[Product, list[Damage]] = {}
    for piece, found in zip(pieces, compute_each(_check, pieces, workers=workers), strict=True):
        advance(piece.n_bytes)
        if found:
            damages.setdefault(piece.product, []).extend(found)
    return [
        Finding(product.location, tuple(some), product)
        for product, some in damages.items()
        # A product that was deleted or replaced while it was read is not damaged.
        if _read(product.location, damaged=product) == product
    ]


def _read(address: Location, *, damaged: Product | None = None) -> Product | None:
    """Return the product; a record that became unreadable leaves what was known of it."""
    try:
        found = read_product(address)
    except StoreError:
        return damaged
    if found is None or damaged is None or found.data == damaged.data:
        return found
    return None


def _pieces(product: Product) -> Iterator[_Piece]:
    paths: list[str] = []
    n_bytes, first = 0, True
    for path, file in product.record["files"].items():
        if paths and (n_bytes + file["bytes"] > PIECE_BYTES or len(paths) == PIECE_FILES):
            yield _Piece(product, tuple(paths), n_bytes, first)
            paths, n_bytes, first = [], 0, False
        paths.append(path)
        n_bytes += file["bytes"]
    yield _Piece(product, tuple(paths), n_bytes, first)


def _check(piece: _Piece) -> list[Damage]:
    found = piece.product.check_documents() if piece.first else []
    return found + [damage for path in piece.paths if (damage := piece.product.check(path))]


def _rank(order: Sequence[str], finding: Finding) -> int:
    kind = finding.location.parent.name
    return order.index(kind) if kind in order else len(order)


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
