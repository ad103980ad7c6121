"""The lease on a product as any process reads it; the protocol is in ``leases.py``."""

import re
import time
from dataclasses import dataclass
from typing import Any

from soapworks.errors import DamagedProductError, MissingProductError
from soapworks.storage_schemas.layout.names import decode
from soapworks.storage_schemas.leasing.observations import Observations
from soapworks.storage_schemas.leasing.processes import is_dead
from soapworks.storage_schemas.locations.location import Location

MAX_SECONDS = 3600.0
"""Longest expiry of a lease, seconds, whatever its file says."""

_FILE = re.compile(r"lease-(\d{6,})\.json")
_LIMIT = 2**16


@dataclass(frozen=True)
class LeaseState:
    """The lease on a product.

    Attributes
    ----------
    file
        Location of its file.
    number
        Its number.
    content
        The file's fields; empty if they cannot be read.
    expired
        Whether it may be taken over now.
    """

    file: Location
    number: int
    content: dict[str, Any]
    expired: bool

    def __str__(self) -> str:
        """Return the holder in words."""
        words = {key: str(self.content.get(key, "?"))[:80] for key in ("host", "pid", "since")}
        return f"host {words['host']}, pid {words['pid']}, since {words['since']}"


def read_lease(folder: Location, *, default_seconds: float = 60.0) -> LeaseState | None:
    """Return the lease on the product in ``folder``, None if there is none.

    A lease has expired once this process has seen it unchanged for its ``seconds``.

    Parameters
    ----------
    default_seconds
        Expiry of a lease whose file cannot be read.
    """
    number = max(numbers(folder), default=0)
    if not number:
        return None
    file = folder / file_name(number)
    try:
        data = file.read_bytes(limit=_LIMIT)
    except MissingProductError:
        newer = max(numbers(folder), default=0) > number
        return read_lease(folder, default_seconds=default_seconds) if newer else None
    try:
        content = decode(data, file)
    except DamagedProductError:
        content = {}
    seconds = content.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        seconds = default_seconds
    unchanged = _observed.unchanged_for(file.url, data, time.monotonic())
    expired = unchanged > min(seconds, MAX_SECONDS) or is_dead(content)
    return LeaseState(file, number, content, expired)


def live_lease(folder: Location, *, default_seconds: float = 60.0) -> LeaseState | None:
    """Return the lease in ``folder`` unless it has expired; see :func:`read_lease`."""
    lease = read_lease(folder, default_seconds=default_seconds)
    return None if lease is None or lease.expired else lease


def file_name(number: int) -> str:
    """Return the name of the file of a lease with this number."""
    return f"lease-{number:06d}.json"


def holds(file: Location, token: str) -> bool:
    """Return whether a lease's file is there and carries ``token``."""
    try:
        return decode(file.read_bytes(limit=_LIMIT), file).get("token") == token
    except (MissingProductError, DamagedProductError):
        return False


def numbers(folder: Location) -> list[int]:
    """Return the numbers of the lease files in ``folder``, ascending."""
    return sorted(int(found[1]) for name in folder.names() if (found := _FILE.fullmatch(name)))


_observed = Observations()
