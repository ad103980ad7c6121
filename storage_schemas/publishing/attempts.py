"""Attempts: a product in the making.

An attempt works in a folder of its own, ``attempt-<12 hex>``, that no reader looks at before the
completion record names it.
"""

import contextlib
import functools
import platform
import weakref
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Any, Self

from soapworks.errors import InputError, StoreError, UnreachableError
from soapworks.storage_schemas.layout.completeness import forgotten_files
from soapworks.storage_schemas.layout.names import PARTIAL
from soapworks.storage_schemas.layout.recipes import Recipe
from soapworks.storage_schemas.leasing.leases import Lease, LeaseLostError
from soapworks.storage_schemas.leasing.processes import this_machine
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digests import Digests, FileDigest, below
from soapworks.storage_schemas.publishing.parts import read_parts
from soapworks.storage_schemas.publishing.products import Damage, Product, read_product
from soapworks.storage_schemas.publishing.records import (
    ATTEMPT_NAME,
    FORMAT,
    PARTS,
    RECORD,
    WORK,
    as_json,
    encode_record,
)
from soapworks.storage_schemas.publishing.writers import AttemptWriter

_READERS = 4


class Attempt:
    """A product that this process makes; a context manager.

    Leaving it without :meth:`publish` gives the lease back and keeps finished parts for the next
    attempt.

    Attributes
    ----------
    recipe
        What is made.
    location
        The attempt's folder.
    writer
        What writes into it; may be sent to other processes.
    damage
        Damage of the product that was published before; empty for a new one.
    product
        The published product; None before.
    """

    def __init__(
        self, recipe: Recipe, location: Location, lease: Lease, damage: tuple[Damage, ...] = ()
    ) -> None:
        self.recipe, self.location, self.damage = recipe, location, damage
        self.writer = AttemptWriter(location, lease.file, lease.token)
        self.product: Product | None = None
        self._lease = lease
        self._digests = Digests.of(location)
        # Also where the attempt is dropped without being entered, and at the process's end.
        self._release = weakref.finalize(self, lease.release)

    @property
    def address(self) -> Location:
        """The product's folder."""
        return self.location.parent

    @property
    def lost(self) -> bool:
        """Whether another process took the product over: stop working on it."""
        return self._lease.lost

    def __enter__(self) -> Self:
        """Return the attempt."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lease back; drop the folder where it holds nothing worth keeping."""
        if isinstance(error, UnreachableError) and self.location.local_path is None:
            # Every further request would be repeated for a minute before it fails: the person is
            # told now, and the lease is left to expiry.
            self._release.detach()
            self._lease.abandon()
            return
        if self.product is None:
            with contextlib.suppress(StoreError):  # the error under way matters more
                if not self.writer.finished_parts():
                    self.location.delete()
        self._release()

    def publish(self, facts: dict[str, Any]) -> Product:
        """Make the attempt the product.

        Parameters
        ----------
        facts
            Plain JSON values about the product; equal for equal recipes.

        Returns
        -------
        Product
            This one, or that of another process that was first; this attempt is then dropped.

        Raises
        ------
        LeaseLostError
            If another process took over and is not done.
        StoreError
            If a file is missing, not whole, or was written outside of every part.
        """
        files, work = self._files()
        fields = self.recipe.model_dump(mode="json")
        for path, wrong in forgotten_files(self.recipe.kind, fields, facts, files):
            raise StoreError(f"{self.location / path} {wrong}: it was never written; start again")
        record = {
            "format": FORMAT,
            "kind": self.recipe.kind,
            "key": self.recipe.key,
            "attempt": self.location.name,
            "files": as_json(files),
            "facts": facts,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": made_by(),
        }
        data = encode_record(record)
        self.location.sync(list(files))
        try:
            self._lease.check()
        except LeaseLostError:
            winner = read_product(self.address, self.recipe.key)
            if winner is None or winner.missing(recipe=self.recipe.model_dump(mode="json")):
                raise
            return self._adopt(winner)
        if not (self.address / RECORD).create(data):
            winner = read_product(self.address, self.recipe.key)
            if winner is None:
                raise StoreError(f"{self.address} was deleted while it was published; start again")
            # A put that was repeated after a lost answer finds its own record.
            if winner.data != self.location:
                return self._adopt(winner)
        self.product = Product(self.recipe.key, self.recipe.kind, self.address, record)
        self._drop_work(work)
        self._drop_others()
        self._release()
        return self.product

    def _files(self) -> tuple[dict[str, FileDigest], list[str]]:
        """Return the product's files, checked to be whole and accounted for, and those of work."""
        files: dict[str, FileDigest] = {}
        work: list[str] = []
        found = self.location.sizes()
        for path, part in read_parts(self.location, found).items():
            if part.is_work:
                work.append(path)
                continue
            files |= part.files
            files[path] = part.note
        for path, digest in self._digests.written().items():
            if digest is not None:
                files[path] = digest
        files = {path: file for path, file in sorted(files.items()) if not below(path, WORK)}
        for path in found:
            known = path in files or path in work or below(path, WORK)
            if not known and not path.endswith(PARTIAL):
                raise StoreError(
                    f"{self.location / path} was written outside of every finished part, so "
                    "nobody knows whether it is whole; start again"
                )
        for path, file in files.items():
            if found.get(path) != file.bytes:
                raise StoreError(
                    f"{self.location / path} is missing or not whole; start again to make it anew"
                )
        if not files:
            raise InputError(f"nothing was written for {self.address}: there is no product")
        return files, work + [path for path in found if below(path, WORK)]

    def _drop_work(self, work: list[str]) -> None:
        # Only now: a process that is killed before it publishes must find its work again.
        if not work:
            return
        with contextlib.suppress(StoreError):
            for path in work:
                if not below(path, WORK):
                    (self.location / path).delete_file()
            (self.location / PARTS).delete_if_empty()
            (self.location / WORK).delete()

    def _adopt(self, winner: Product) -> Product:
        self.product = winner
        with contextlib.suppress(StoreError):
            self.location.delete()
        self._release()
        return winner

    def _drop_others(self) -> None:
        # What cannot be deleted now is found by gc; another holder's attempt is left alone.
        with contextlib.suppress(StoreError):
            names = [name for name in self.address.names() if ATTEMPT_NAME.fullmatch(name)]
            others = [self.address / name for name in names if name != self.location.name]
            if others:
                self._lease.check()
            for other in others:
                other.delete()


@functools.cache
def made_by() -> dict[str, str]:
    """Return versions and host, for the record."""
    versions = {}
    for name in ("soapworks", "zarr", "numpy", "torch", "timm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    host = this_machine()["host"]
    return {**versions, "python": platform.python_version(), "host": host}
