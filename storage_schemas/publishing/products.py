"""Products: what is published, and whether it is still whole.

The layout is in ``records.py``.
"""

import contextlib
import errno
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import zarr

from soapworks.errors import DamagedProductError, MissingProductError, StoreError
from soapworks.storage_schemas.layout.completeness import forgotten_files, known_lengths
from soapworks.storage_schemas.layout.names import MAX_DOCUMENT_BYTES, decode
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digests import FileDigest, below, digest_of
from soapworks.storage_schemas.publishing.published_store import published_store
from soapworks.storage_schemas.publishing.records import (
    RECIPE,
    RECORD,
    decode_record,
    encode_record,
)


@dataclass(frozen=True)
class Damage:
    """One file that is not as it was published.

    Attributes
    ----------
    path
        The file, relative to the product's folder.
    reason
        What is wrong with it, in words.
    certain
        False where it could not be read for a reason that may lie elsewhere (rights, the
        connection): no ground for making a product again.
    """

    path: str
    reason: str
    certain: bool = True

    def __str__(self) -> str:
        """Return the damage as a sentence's end."""
        return f"{self.path} {self.reason}"


@dataclass(frozen=True)
class Product:
    """A published product: immutable, read only.

    Attributes
    ----------
    key
        sha256 of the recipe, 64 hex digits.
    kind
        What it is: features, moments, pca, ...
    location
        The product's folder, its address.
    record
        The completion record: ``facts``, ``files``, ``created``, ``made_by``, ...
    """

    key: str
    kind: str
    location: Location
    record: dict[str, Any] = field(compare=False, repr=False)

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return self.location.name[: -len("-") - 12]

    @property
    def address(self) -> str:
        """Address within the store: ``<kind>/<slug>-<key12>``."""
        return f"{self.kind}/{self.location.name}"

    @property
    def data(self) -> Location:
        """The attempt's folder, in which the files lie."""
        return self.location / self.record["attempt"]

    @property
    def files(self) -> dict[str, FileDigest]:
        """Path relative to ``data`` -> size and sha256 of every file."""
        return {
            path: FileDigest(file["bytes"], file["sha256"])
            for path, file in self.record["files"].items()
        }

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage noted about the product."""
        return self.record["facts"]

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe's fields, and its ``kind``.

        Raises
        ------
        DamagedProductError
            If the recipe's file is missing or is not the one that the key was made of.
        """
        file = self.location / RECIPE
        try:
            data = file.read_bytes(limit=MAX_DOCUMENT_BYTES)
        except MissingProductError:
            raise DamagedProductError.of(self.address, f"its {RECIPE} is missing") from None
        if hashlib.sha256(data).hexdigest() != self.key:
            raise DamagedProductError.of(self.address, f"its {RECIPE} was changed")
        return decode(data, file)

    def open_zarr(self, name: str = "arrays.zarr") -> zarr.Group:
        """Return a zarr group of the product, read only.

        Raises
        ------
        DamagedProductError
            If it cannot be opened.
        """
        folder = self.data / name
        try:
            # On a disk looking is cheap, and tells links that lead elsewhere.
            local = folder.local_path is not None
            if damages := self.missing(name) if local else self.forgotten():
                raise DamagedProductError.of(self.address, str(damages[0]))
            return zarr.open_group(published_store(folder), mode="r", use_consolidated=False)
        except StoreError:
            raise
        except Exception as error:
            reason = str(error).rstrip(".")
            raise DamagedProductError.of(
                self.address, f"{name} cannot be opened ({reason})"
            ) from error

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, checked against its digest.

        Raises
        ------
        MissingProductError
            If the product has no such file.
        DamagedProductError
            If the file is gone or was changed.
        """
        expected = self.files.get(name)
        if expected is None:
            known = ", ".join(sorted(self.files)[:8])
            raise MissingProductError(f"{self.address} has no file {name!r}; it has {known}")
        try:
            data = (self.data / name).read_bytes(limit=expected.bytes)
        except MissingProductError:
            data = None
        if data is None or digest_of(data) != expected:
            wrong = "is missing" if data is None else "was changed"
            raise DamagedProductError.of(self.address, f"{name} {wrong}")
        return data

    def forgotten(self, recipe: Mapping[str, Any] | None = None) -> list[Damage]:
        """Return what the record should list and does not, by the product's recipe and facts.

        Parameters
        ----------
        recipe
            The recipe's fields, where they are known; read where they are needed otherwise.

        Raises
        ------
        DamagedProductError
            If the recipe is needed and damaged.
        """
        # Only the number of blocks of features stands in the recipe alone.
        if recipe is None:
            recipe = self.recipe if self.kind == "features" else {}
        try:
            known_lengths(recipe, self.facts)
        except DamagedProductError as error:
            return [Damage(RECORD, f"is wrong: {error}")]
        return [
            Damage(f"{self.data.name}/{path}", wrong)
            for path, wrong in forgotten_files(self.kind, recipe, self.facts, self.record["files"])
        ]

    def missing(self, name: str = "", *, recipe: Mapping[str, Any] | None = None) -> list[Damage]:
        """Return the files that are gone, forgotten or of another size; no contents are read.

        Parameters
        ----------
        name
            Look only at the sizes of what lies at or below this path.
        recipe
            As for :meth:`forgotten`.
        """
        files = {path: file for path, file in self.files.items() if below(path, name)}
        found = self.data.sizes_of(files)
        try:
            damages = self.forgotten(recipe)
        except DamagedProductError:
            damages = [Damage(RECIPE, "is missing or was changed")]
        return damages + [
            Damage(f"{self.data.name}/{path}", reason)
            for path, file in files.items()
            if (reason := _size_damage(found.get(path), file.bytes))
        ]

    def verify(self) -> list[Damage]:
        """Return every file that is not as it was published; all bytes are read."""
        found = [self.check(path) for path in self.files]
        return self.check_documents() + [damage for damage in found if damage]

    def check_documents(self) -> list[Damage]:
        """Return what is wrong with the recipe's file and the record itself."""
        found = []
        try:
            _ = Product(self.key, self.kind, self.location, self.record).recipe
        except DamagedProductError:
            found.append(Damage(RECIPE, "is missing or was changed"))
        except StoreError as error:
            found.append(_unreadable(RECIPE, error))
        try:
            data = (self.location / RECORD).read_bytes(limit=MAX_DOCUMENT_BYTES)
            if data != encode_record(self.record):
                found.append(Damage(RECORD, "was changed"))
        except MissingProductError:
            pass  # withdrawn or deleted meanwhile, which is no damage
        except StoreError as error:
            found.append(_unreadable(RECORD, error))
        with contextlib.suppress(StoreError):  # the recipe's own damage is found above
            found += self.forgotten()
        return found

    def check(self, path: str) -> Damage | None:
        """Return what is wrong with one file that the record names; all its bytes are read.

        Parameters
        ----------
        path
            The file, relative to ``data``.
        """
        name, file = f"{self.data.name}/{path}", self.data / path
        expected = FileDigest(*(self.record["files"][path][of] for of in ("bytes", "sha256")))
        try:
            # On a disk this is cheap, and tells links that lead elsewhere.
            if self.data.local_path is not None:
                size = self.data.sizes_of([path]).get(path)
                if reason := _size_damage(size, expected.bytes):
                    return Damage(name, reason)
            found = FileDigest(*file.digest())
            if found == expected:
                return None
            return Damage(name, _size_damage(found.bytes, expected.bytes) or "was changed")
        except MissingProductError:
            return Damage(name, "is missing")
        except StoreError as error:
            return _unreadable(name, error)


def read_product(address: Location, key: str | None = None) -> Product | None:
    """Return the product at ``address``; None if none is published there.

    Parameters
    ----------
    key
        The key that it must have; without it, any that fits the address.

    Raises
    ------
    DamagedProductError
        If the completion record cannot be understood.
    LaterFormatError
        If it was written by a later version: it is no damage, and is left alone.
    """
    try:
        record = decode_record(address, key)
    except MissingProductError:
        return None
    return Product(record["key"], record["kind"], address, record)


def _unreadable(path: str, error: StoreError) -> Damage:
    # A broken disk answers EIO; anything else may be in the way of a whole file.
    broken = getattr(error.__cause__, "errno", None) == errno.EIO
    return Damage(path, f"cannot be read ({str(error).rstrip('.')})", certain=broken)


def _size_damage(found: int | None, expected: int) -> str | None:
    if found is None:
        return "is missing"
    return None if found == expected else f"has {found} bytes instead of {expected}"
