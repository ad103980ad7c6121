"""Products: what is published, and whether it is still whole.

::

    <store>/<kind>/<slug>-<first 12 digits of the key>/
        recipe.json             the recipe's canonical JSON; its sha256 is the key
        record.json             the completion record, created last: without it there is no product
        attempt-<12 hex>/       the data that the record names
            parts/<part>.json   the finished parts (blocks of images): their files' digests

    record.json  {"format": 1, "kind", "key", "attempt": "attempt-<12 hex>",
                  "files": {path relative to the attempt: {"bytes", "sha256"}},
                  "facts": {...}, "created": ISO 8601 UTC, "made_by": {versions, host},
                  "checksum": sha256 of this document without "checksum"}

``files`` names every file of the attempt, ``parts/`` too. Equal recipes give equal ``files`` and
``facts``; times and versions are in ``created`` and ``made_by`` alone.
"""

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zarr

from soapworks.errors import DamagedProductError, InputError, MissingProductError, StoreError
from storage_schemas.digests import FileDigest, digest_of
from storage_schemas.location import Location
from storage_schemas.names import MAX_DOCUMENT_BYTES, decode, encode, safe_path

FORMAT = 1
RECORD = "record.json"
RECIPE = "recipe.json"
PARTS = "parts"

ATTEMPT_NAME = re.compile(r"attempt-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LaterFormatError(StoreError):
    """A product that a later soapworks made, in a format that this one does not know."""


@dataclass(frozen=True)
class Damage:
    """One file that is not as it was published.

    Attributes
    ----------
    path
        The file, relative to the product's folder.
    reason
        What is wrong with it, in words.
    """

    path: str
    reason: str

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
            raise DamagedProductError(f"The recipe {file} is missing.") from None
        if hashlib.sha256(data).hexdigest() != self.key:
            raise DamagedProductError(f"The recipe {file} is not the one of this product.")
        return decode(data, file)

    def open_zarr(self, name: str = "arrays.zarr") -> zarr.Group:
        """Return a zarr group of the product, read only.

        Raises
        ------
        DamagedProductError
            If it cannot be opened.
        """
        store = (self.data / name).zarr_store(read_only=True)
        try:
            return zarr.open_group(store, mode="r", use_consolidated=False)
        except StoreError:
            raise
        except Exception as error:
            raise DamagedProductError(
                f"{self.address} cannot be opened ({name}: {error}); run soapworks verify --repair."
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
            raise MissingProductError(f"{self.address} has no file {name!r}; it has {known}.")
        try:
            data = (self.data / name).read_bytes(limit=expected.bytes)
        except MissingProductError:
            data = None
        if data is None or digest_of(data) != expected:
            raise DamagedProductError(
                f"{self.address} is damaged: {name} {'was changed' if data else 'is missing'}; "
                "run soapworks verify --repair, or the same command again."
            )
        return data

    def missing(self) -> list[Damage]:
        """Return the files that are gone or have another size: the cheap check, nothing is read."""
        found = self.data.sizes()
        return [
            Damage(f"{self.data.name}/{path}", reason)
            for path, file in self.files.items()
            if (reason := _size_damage(found.get(path), file.bytes))
        ]

    def verify(self) -> list[Damage]:
        """Return every file that is not as it was published; all bytes are read."""
        return [damage for _, damage in self.verify_steps() if damage]

    def verify_steps(self) -> Iterator[tuple[int, Damage | None]]:
        """Yield (bytes checked, damage or None) per file, as the check goes on."""
        try:
            _ = Product(self.key, self.kind, self.location, self.record).recipe
        except DamagedProductError:
            yield 0, Damage(RECIPE, "is missing or was changed")
        found = self.data.sizes()
        for path, file in self.files.items():
            name = f"{self.data.name}/{path}"
            if reason := _size_damage(found.get(path), file.bytes):
                yield 0, Damage(name, reason)
                continue
            try:
                same = FileDigest(*(self.data / path).digest()) == file
                yield file.bytes, None if same else Damage(name, "was changed")
            except MissingProductError:
                yield 0, Damage(name, "is missing")
            except StoreError as error:
                yield 0, Damage(name, f"cannot be read: {error}")


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
    file = address / RECORD
    try:
        record = decode(file.read_bytes(limit=MAX_DOCUMENT_BYTES), file)
    except MissingProductError:
        return None
    version = record.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise LaterFormatError(
            f"{file} has format {version}, made by a later soapworks than this one, which knows "
            f"{FORMAT}: upgrade soapworks or choose another store."
        )
    damage = _record_damage(record, address, key)
    if damage:
        raise DamagedProductError(f"The completion record {file} {damage}.")
    return Product(record["key"], record["kind"], address, record)


def encode_record(record: dict[str, Any]) -> bytes:
    """Return the bytes of a completion record, with its checksum."""
    return encode({**record, "checksum": digest_of(encode(record)).sha256})


def files_of(document: dict[str, Any]) -> dict[str, FileDigest]:
    """Return the ``files`` of a record or a part.

    Raises
    ------
    InputError
        If a path leads out of its folder, or a size or digest is none.
    """
    files = document.get("files")
    if not isinstance(files, dict):
        raise InputError("it lists no files")
    found = {}
    for path, file in files.items():
        size = file.get("bytes") if isinstance(file, dict) else None
        sha256 = file.get("sha256") if isinstance(file, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InputError(f"the size of {path[:80]!r} is none")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise InputError(f"the digest of {path[:80]!r} is none")
        found[safe_path(path)] = FileDigest(size, sha256)
    return found


def as_json(files: dict[str, FileDigest]) -> dict[str, dict[str, Any]]:
    """Return files as they stand in records."""
    return {path: {"bytes": file.bytes, "sha256": file.sha256} for path, file in files.items()}


def _record_damage(record: dict[str, Any], address: Location, key: str | None) -> str | None:
    stated = record.pop("checksum", None)
    if stated != digest_of(encode(record)).sha256:
        return "was changed (its checksum differs)"
    found, attempt = record.get("key"), record.get("attempt")
    if record.get("format") != FORMAT or not isinstance(record.get("facts"), dict):
        return "is not in a format that is known"
    if not isinstance(found, str) or not _SHA256.fullmatch(found):
        return "names no key"
    if found != (key or found) or not address.name.endswith(f"-{found[:12]}"):
        return "belongs to another product"
    if record.get("kind") != address.parent.name:
        return "belongs to another kind of product"
    if not isinstance(attempt, str) or not ATTEMPT_NAME.fullmatch(attempt):
        return "names no attempt"
    try:
        files_of(record)
    except InputError as error:
        return f"is refused: {str(error).rstrip('.')}"
    return None


def _size_damage(found: int | None, expected: int) -> str | None:
    if found is None:
        return "is missing"
    return None if found == expected else f"has {found} bytes instead of {expected}"
