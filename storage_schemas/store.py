"""The store: products under their recipes' keys, each made once and published whole.

Correctness rests on the completion record alone: written last, created only if absent, naming the
attempt that counts (layout in ``products.py``). Leases (``leases.py``) only save double work.
"""

import difflib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from soapworks.errors import DamagedProductError, InputError, MissingProductError
from soapworks.storage_schemas.layout.recipes import Recipe
from soapworks.storage_schemas.leasing import leases, reclaim
from soapworks.storage_schemas.leasing.lease_state import MAX_SECONDS, live_lease
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.attempts import Attempt
from soapworks.storage_schemas.publishing.parts import take_over_parts
from soapworks.storage_schemas.publishing.products import Damage, Product, read_product
from soapworks.storage_schemas.publishing.records import RECIPE, RECORD, LaterFormatError

__all__ = ["Attempt", "Product", "Store"]

KEY_DIGITS = 12
"""Digits of the key in an address."""

COMPARED = ("pca", "scores", "heads")
"""Kinds that are compared with their digests before they are reused: small, and handed on."""

BESIDE = ("reports", "watch")
"""Folders of a store that hold no products."""

_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_ADDRESS = re.compile(r"[a-z0-9_.-]{1,180}-([0-9a-f]{12})")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class Store:
    """A store of products, on a disk or in a bucket.

    Parameters
    ----------
    url
        A folder, or a URL that fsspec knows (``s3://bucket/prefix``).
    lease_seconds
        Seconds without a heartbeat after which a lease expires.

    Raises
    ------
    InputError
        If the URL cannot be the address of a store.
    """

    def __init__(self, url: str | Path | Location, *, lease_seconds: float = 60.0) -> None:
        if not 0 < lease_seconds <= MAX_SECONDS:
            raise InputError(
                f"lease_seconds = {lease_seconds}: give more than 0 and at most "
                f"{MAX_SECONDS:.0f} seconds"
            )
        self.location = Location.parse(url)
        self.lease_seconds = lease_seconds
        self._compared: set[str] = set()  # in a bucket once per store: every byte is fetched

    @property
    def url(self) -> str:
        """The store's address, as a path or URL."""
        return self.location.url

    def address(self, recipe: Recipe) -> Location:
        """Return the folder in which the product of a recipe lies or would lie."""
        return self.location / recipe.kind / f"{recipe.slug}-{recipe.key[:KEY_DIGITS]}"

    def find(self, recipe: Recipe) -> Product | None:
        """Return the published product of a recipe if all its files are there in full size.

        None where there is none, or where it is damaged: :meth:`claim` then makes it again.
        Contents are read only of small products (``COMPARED``); :meth:`Product.verify` reads all.
        """
        product, damages = self._look(recipe)
        return None if damages else product

    def claim(self, recipe: Recipe) -> Product | Attempt | None:
        """Return the product, or the right to make it.

        Returns
        -------
        Product
            If it is published and whole.
        Attempt
            If this process now holds the lease; finished parts of earlier attempts are in it.
        None
            While another process, or another attempt of this one, works on it: ask again.

        Raises
        ------
        StoreError
            If the store cannot be read or written.
        """
        product, damages = self._look(recipe)
        if product is not None and not damages:
            return product
        address = self.address(recipe)
        lease = leases.acquire(address, self.lease_seconds)
        if lease is None:
            return None
        try:
            # Another process may have published between the first look and the lease.
            product, damages = self._look(recipe)
            if product is not None and not damages:
                lease.release()
                return product
            if damages:
                (address / RECORD).delete_file()
            (address / RECIPE).write_bytes(recipe.canonical_json())
            location = address / f"attempt-{uuid.uuid4().hex[:12]}"
            attempt = Attempt(recipe, location, lease, tuple(damages))
            take_over_parts(location)
        except BaseException:
            lease.release()
            raise
        return attempt

    def holder(self, recipe: Recipe) -> str | None:
        """Return the holder of the product's lease in words; None if it is free."""
        lease = live_lease(self.address(recipe), default_seconds=self.lease_seconds)
        return str(lease) if lease else None

    def withdraw(self, product: Product | Location) -> bool:
        """Unpublish a damaged product, so that the next claim makes it again from what is whole.

        Parameters
        ----------
        product
            The product, or the address of one whose completion record cannot be understood.

        Returns
        -------
        bool
            False if it was replaced or withdrawn in the meantime.

        Raises
        ------
        StoreError
            While another process holds its lease.
        """
        address = product.location if isinstance(product, Product) else product
        with leases.held(address, self.lease_seconds):
            try:
                now = read_product(address)
            except DamagedProductError:
                pass
            else:
                known = product.data if isinstance(product, Product) else None
                if now is None or now.data != known:
                    return False
            (address / RECORD).delete_file()
            return True

    def products(self, kind: str | None = None) -> list[Product]:
        """Return all published products, of one kind or all; their files are not looked at.

        Products whose record cannot be understood are left out; :meth:`unreadable` has those.
        """
        return [product for product in self._read_all(kind) if isinstance(product, Product)]

    def unreadable(self, kind: str | None = None) -> list[Damage]:
        """Return the addresses whose completion record cannot be understood."""
        return [damage for damage in self._read_all(kind) if isinstance(damage, Damage)]

    def product(self, key_or_address: str) -> Product:
        """Return one published product.

        Parameters
        ----------
        key_or_address
            The first 4 or more digits of its key, its address (``<kind>/<slug>-<key12>``), or a
            path or URL of it or of something in it.

        Raises
        ------
        MissingProductError
            If there is none, or more than one; the message says what is there.
        DamagedProductError
            If its completion record cannot be understood.
        """
        if _PREFIX.fullmatch(key_or_address):
            return self._by_prefix(key_or_address)
        text = str(key_or_address)
        inside = Location.parse(text).url.removeprefix(self.url + "/")
        for path in (text.strip("/"), inside):
            kind, _, rest = path.partition("/")
            name = rest.partition("/")[0]
            if _KIND.fullmatch(kind) and _ADDRESS.fullmatch(name):
                product = read_product(self.location / kind / name)
                if product is not None:
                    return product
        raise self._missing(key_or_address)

    def _by_prefix(self, digits: str) -> Product:
        found = [
            product
            for address in self.addresses()
            if address.name[-KEY_DIGITS:].startswith(digits[:KEY_DIGITS])
            and (product := read_product(address)) is not None
            and product.key.startswith(digits)
        ]
        if len(found) > 1:
            names = ", ".join(product.address for product in found[:5])
            raise MissingProductError(
                f"{digits} stands for {len(found)} products ({names}); give more digits"
            )
        if not found:
            raise self._missing(digits)
        return found[0]

    def kinds(self) -> list[str]:
        """Return the kinds that the store has folders for."""
        names = self.location.names()
        return [name for name in names if _KIND.fullmatch(name) and name not in BESIDE]

    def addresses(self, kind: str | None = None) -> list[Location]:
        """Return the addresses of all products, published or not."""
        return [
            self.location / each / name
            for each in ([kind] if kind else self.kinds())
            for name in (self.location / each).names()
            if _ADDRESS.fullmatch(name)
        ]

    def delete(self, product: Product) -> None:
        """Delete a product: its record first, then its data.

        Raises
        ------
        StoreError
            While another process holds its lease.
        """
        reclaim.delete(product.location, self.lease_seconds)

    def abandoned(self, *, patience: float = 0.0) -> list[tuple[Location, int]]:
        """Return what no record names and no live lease protects, with its bytes.

        See :func:`soapworks.storage_schemas.leasing.reclaim.abandoned`.
        """
        return reclaim.abandoned(self.addresses(), self.lease_seconds, patience)

    def discard(self, location: Location) -> bool:
        """Delete an item of :meth:`abandoned`; False if it is no longer abandoned."""
        return reclaim.discard(self.location, location, self.lease_seconds)

    def free_bytes(self) -> int | None:
        """Return the bytes that can still be written; None where nobody knows (S3)."""
        return self.location.free_bytes()

    def _look(self, recipe: Recipe) -> tuple[Product | None, list[Damage]]:
        try:
            product = read_product(self.address(recipe), recipe.key)
        except DamagedProductError:
            return None, [Damage(RECORD, "cannot be understood")]
        if product is None:
            return None, []
        damages = product.missing(recipe=recipe.model_dump(mode="json"))
        if not damages and recipe.kind in COMPARED and product.data.url not in self._compared:
            found = [product.check(path) for path in product.files]
            damages = [damage for damage in found if damage and damage.certain]
            if not damages and product.data.local_path is None:
                self._compared.add(product.data.url)
        return product, damages

    def _read_all(self, kind: str | None) -> Iterator[Product | Damage]:
        for address in self.addresses(kind):
            try:
                product = read_product(address)
            except (DamagedProductError, LaterFormatError) as error:
                yield Damage(f"{address.parent.name}/{address.name}/{RECORD}", str(error))
                continue
            if product is not None:
                yield product

    def _missing(self, wanted: str) -> MissingProductError:
        known = [f"{a.parent.name}/{a.name}" for a in self.addresses()]
        if not known:
            return MissingProductError(
                f"no product {wanted!r}: the store {self.location} is empty; run soapworks score"
            )
        near = difflib.get_close_matches(wanted, known, 3, 0.4) or known[:3]
        return MissingProductError(
            f"no product {wanted!r} in {self.location}, which has {len(known)} "
            f"({', '.join(near)}, ...); run soapworks ls to see them"
        )
