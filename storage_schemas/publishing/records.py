"""Completion records: without one there is no product.

::

    <store>/<kind>/<slug>-<first 12 digits of the key>/
        recipe.json             the recipe's canonical JSON; its sha256 is the key
        record.json             the completion record, created last: without it there is no product
        attempt-<12 hex>/       the data that the record names
            parts/<part>.json   the finished parts (blocks of images): their files' digests
            work/...            what only the making needs; no part of the product

    record.json  {"format": 1, "kind", "key", "attempt": "attempt-<12 hex>",
                  "files": {path relative to the attempt: {"bytes", "sha256"}},
                  "facts": {...}, "created": ISO 8601 UTC, "made_by": {versions, host},
                  "checksum": sha256 of this document without "checksum"}

``files`` names every file of the attempt, ``parts/`` too, except what lies below ``work/`` and the
notes of parts that are nothing else: those are deleted once the product is published. Equal
recipes give equal ``files`` and ``facts``; times and versions are in ``created`` and ``made_by``
alone.
"""

import re
from typing import Any

from soapworks.errors import DamagedProductError, InputError, StoreError
from soapworks.storage_schemas.layout.names import MAX_DOCUMENT_BYTES, decode, encode, safe_path
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digests import FileDigest, digest_of

FORMAT = 1
RECORD = "record.json"
RECIPE = "recipe.json"
PARTS = "parts"
WORK = "work"

ATTEMPT_NAME = re.compile(r"attempt-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LaterFormatError(StoreError):
    """A product that a later soapworks made, in a format that this one does not know."""


def decode_record(address: Location, key: str | None = None) -> dict[str, Any]:
    """Return the completion record at ``address``, checked, without its checksum.

    Parameters
    ----------
    key
        The key that it must have; without it, any that fits the address.

    Raises
    ------
    MissingProductError
        If there is none.
    DamagedProductError
        If it cannot be understood.
    LaterFormatError
        If it was written by a later version: it is no damage, and is left alone.
    """
    file = address / RECORD
    record = decode(file.read_bytes(limit=MAX_DOCUMENT_BYTES), file)
    version = record.get("format")
    # The number itself may be what was changed: then the checksum agrees with ours.
    if isinstance(version, int) and version > FORMAT and not _is_ours(record):
        raise LaterFormatError(
            f"{file} has format {version}, made by a later soapworks than this one, which knows "
            f"{FORMAT}: upgrade soapworks or choose another store"
        )
    damage = _damage(record, address)
    if damage:
        raise DamagedProductError.of(file, f"the completion record {damage}")
    if key is not None and record["key"] != key:
        raise StoreError(
            f"{address} holds the product of another recipe, whose key begins alike: choose "
            "another store for this one"
        )
    return record


def encode_record(record: dict[str, Any]) -> bytes:
    """Return the bytes of a completion record, with its checksum."""
    return encode({**record, "checksum": digest_of(encode(record)).sha256})


def files_of(document: dict[str, Any]) -> dict[str, FileDigest]:
    """Return the ``files`` of a record or a part.

    Raises
    ------
    InputError
        If a path leads out of its folder, or a size or digest is invalid.
    """
    files = document.get("files")
    if not isinstance(files, dict):
        raise InputError("it lists no files")
    found = {}
    for path, file in files.items():
        size = file.get("bytes") if isinstance(file, dict) else None
        sha256 = file.get("sha256") if isinstance(file, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InputError(f"{path[:80]!r} has an invalid size")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise InputError(f"{path[:80]!r} has an invalid digest")
        found[safe_path(path)] = FileDigest(size, sha256)
    return found


def as_json(files: dict[str, FileDigest]) -> dict[str, dict[str, Any]]:
    """Return files as they stand in records."""
    return {path: {"bytes": file.bytes, "sha256": file.sha256} for path, file in files.items()}


def _is_ours(record: dict[str, Any]) -> bool:
    ours = {**record, "format": FORMAT}
    return ours.pop("checksum", None) == digest_of(encode(ours)).sha256


def _damage(record: dict[str, Any], address: Location) -> str | None:
    stated = record.pop("checksum", None)
    if stated != digest_of(encode(record)).sha256:
        return "was changed (its checksum differs)"
    found, attempt = record.get("key"), record.get("attempt")
    if record.get("format") != FORMAT or not isinstance(record.get("facts"), dict):
        return "is not in a format that is known"
    if not isinstance(found, str) or not _SHA256.fullmatch(found):
        return "names no key"
    if not address.name.endswith(f"-{found[:12]}"):
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
