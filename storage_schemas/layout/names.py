"""Names of files and folders that come from outside, and stored JSON, both distrusted.

Everything that names a file inside a store passes :func:`safe_path` before it touches a disk or a
bucket: a record that was tampered with can make reading fail, never reach outside its folder.
"""

import json
import re
from typing import Any

from soapworks.errors import DamagedProductError, InputError

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Largest JSON document that is read, bytes: 400,000 files in one record."""

MAX_DEPTH = 64
"""Deepest nesting of a JSON document that is accepted."""

MAX_PATH = 1024
"""Longest path of a file in a product, characters (the limit of S3's keys)."""

PARTIAL = ".partial"
"""Suffix of files written aside; they are renamed when whole and never read."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]{0,199}")
_REFUSED = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


def safe_path(path: object) -> str:
    """Return ``path`` if it is a relative path that stays inside its folder.

    Parameters
    ----------
    path
        Components joined by ``/``.

    Raises
    ------
    InputError
        If it is not text, is empty, absolute or too long, or holds an empty component, ``.``,
        ``..``, a backslash or a control character.
    """
    if not isinstance(path, str) or not path or len(path) > MAX_PATH or _REFUSED.search(path):
        raise InputError(f"{str(path)[:80]!r} cannot name a file in a store")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InputError(f"{path[:80]!r} is refused: it would lead out of its folder")
    return path


def safe_part(part: object) -> str:
    """Return ``part`` if it can name a part of a product (letters, digits, ``_.=-``)."""
    if not isinstance(part, str) or not _PART.fullmatch(part) or part.endswith(PARTIAL):
        raise InputError(
            f"{str(part)[:80]!r} cannot name a part: use up to 200 letters, digits and _ . = -"
        )
    return part


def slug(text: str, *, keep: str = "", fill: str = "-") -> str:
    """Return text in lower case with ``fill`` for all but letters, digits and ``keep``."""
    return re.sub(rf"[^a-z0-9{re.escape(keep)}]+", fill, text.lower()).strip("-")


def encode(document: dict[str, Any]) -> bytes:
    """Return ``document`` as JSON, sorted and indented: equal documents have equal bytes.

    Raises
    ------
    InputError
        If it holds what JSON cannot (NaN, infinity, an array, nesting without end).
    """
    try:
        text = json.dumps(document, sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"only plain JSON values can be stored in a record: {error}") from error
    return text.encode() + b"\n"


def decode(data: bytes, where: object) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Parameters
    ----------
    data
        Bytes of the document.
    where
        What to call the document in errors.

    Raises
    ------
    DamagedProductError
        If it is no JSON object, too large or nested too deeply.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DamagedProductError(
            f"{where} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, which no record of ours is"
        )
    try:
        document = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DamagedProductError(f"{where} is not a readable JSON document") from error
    if not isinstance(document, dict):
        raise DamagedProductError(f"{where} does not hold a JSON object")
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return document
    raise DamagedProductError(f"{where} is nested deeper than {MAX_DEPTH} levels")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
