"""Leases: one worker per product, and nobody blocked for long by a dead one.

Leases save double work; they are not what makes a product correct (its record is, see
``store.py``). The protocol is the same on a disk and in a bucket::

    <address>/lease-000001.json   {"format": 1, "token", "beat", "seconds", "since", "host", "boot",
                                   "namespace", "pid", "started"}

* Who wants the lease creates the file with the next number, only if absent; that is allowed where
  there is none, or where the highest one has expired. The highest number holds; older files are
  then deleted.
* The holder rewrites its file with a growing ``beat`` every quarter of ``seconds``. It has lost
  when its file is gone or carries another token, or a higher number is there.
* A lease has expired when its bytes did not change for ``seconds`` by the *observer's* clock:
  clocks of two machines are never compared. A holder on this machine whose process is gone has
  expired at once.
* Release deletes the file; so does the end of the process, in order or by SIGTERM.
"""

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from soapworks.errors import DamagedProductError, MissingProductError, StoreError
from storage_schemas import heartbeats
from storage_schemas.location import Location
from storage_schemas.names import decode, encode
from storage_schemas.processes import is_dead, this_process

FORMAT = 1
MAX_SECONDS = 3600.0
"""No lease is believed to need longer to expire, whatever its file says."""

_FILE = re.compile(r"lease-(\d{6})\.json")
_LIMIT = 2**16


class LeaseLostError(StoreError):
    """The lease on a product was taken over: another process makes it now."""


@dataclass(frozen=True)
class Holding:
    """The lease that stands on a product.

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


class Lease:
    """A lease that this process took; see :func:`acquire`.

    Attributes
    ----------
    file
        Location of the lease's file.
    number
        Number of the lease; the highest one holds.
    token
        Random name of this holding.
    seconds
        Time without a sign of life after which others may take over.
    """

    def __init__(self, folder: Location, number: int, seconds: float) -> None:
        self.file = folder / f"lease-{number:06d}.json"
        self.token = uuid.uuid4().hex
        self.seconds = seconds
        self.number = number
        self._folder, self._beat, self._pid = folder, 0, os.getpid()
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._alive = time.monotonic()
        self._lost = False
        self._lock = threading.Lock()

    @property
    def lost(self) -> bool:
        """Whether another process has, or may have, taken over."""
        return self._lost

    def content(self) -> bytes:
        """Return the bytes of the lease's file."""
        return encode(
            {
                "format": FORMAT,
                "token": self.token,
                "beat": self._beat,
                "seconds": self.seconds,
                "since": self._since,
                **this_process(),
            }
        )

    def beat(self) -> None:
        """Show a sign of life; storage that fails counts as lost once the lease has expired."""
        with self._lock:
            if self._lost:
                return
            try:
                if self._standing():
                    self._beat += 1
                    self.file.write_bytes(self.content(), durable=False)
                    self._alive = time.monotonic()
                else:
                    self._give_up()
            except StoreError:
                if time.monotonic() - self._alive > self.seconds:
                    self._lost = True

    def check(self) -> None:
        """Ask the storage whether the lease still stands.

        Raises
        ------
        LeaseLostError
            If it does not.
        """
        with self._lock:
            if not self._lost and not self._standing():
                self._give_up()
            if self._lost:
                raise LeaseLostError(lost_sentence(self._folder))

    def release(self) -> None:
        """Give the lease back; storage that fails is left to expiry."""
        if self._pid != os.getpid():
            return  # a forked child; the lease is its parent's
        heartbeats.stop(self)
        with self._lock:
            try:
                if not self._lost:
                    self._give_up()
            except StoreError:
                pass
            self._lost = True

    def _standing(self) -> bool:
        newest = max(numbers(self._folder), default=0)
        return newest == self.number and holds(self.file, self.token)

    def _give_up(self) -> None:
        self._lost = True
        if holds(self.file, self.token):
            self.file.delete()


def acquire(folder: Location, seconds: float) -> Lease | None:
    """Take the lease on the product in ``folder``; None while another process holds it.

    Parameters
    ----------
    folder
        The product's address.
    seconds
        Time without a sign of life after which others may take over from us.

    Raises
    ------
    StoreError
        If the storage fails.
    """
    standing = holding(folder)
    if standing is not None and not standing.expired:
        return None
    lease = Lease(folder, standing.number + 1 if standing else 1, seconds)
    if not lease.file.create(lease.content()):
        return None
    if not holds(lease.file, lease.token):
        return None  # on a server that has no conditional puts, another was a moment later
    heartbeats.start(lease)
    # Between looking and creating, others may have come and gone, and a later number may stand.
    for number in numbers(folder):
        if number > lease.number:
            lease.release()
            return None
        if number < lease.number:
            (folder / f"lease-{number:06d}.json").delete()
    return lease


@contextlib.contextmanager
def held(folder: Location, seconds: float) -> Iterator[Lease]:
    """Hold the lease on the product in ``folder`` for a while.

    Raises
    ------
    StoreError
        While another process holds it.
    """
    lease = acquire(folder, seconds)
    if lease is None:
        raise StoreError(
            f"{folder.parent.name}/{folder.name} is being worked on ({holding(folder)}); "
            "try again when that has ended."
        )
    try:
        yield lease
    finally:
        lease.release()


def holding(folder: Location, *, default_seconds: float = 60.0) -> Holding | None:
    """Return the lease that stands on the product in ``folder``, None if there is none.

    Looking is observing: a lease that was unchanged over ``seconds`` of looking has expired.

    Parameters
    ----------
    default_seconds
        Expiry of a lease whose file cannot be read.
    """
    number = max(numbers(folder), default=0)
    if not number:
        return None
    file = folder / f"lease-{number:06d}.json"
    try:
        data = file.read_bytes(limit=_LIMIT)
    except MissingProductError:
        return holding(folder) if max(numbers(folder), default=0) > number else None
    try:
        content = decode(data, file)
    except DamagedProductError:
        content = {}
    seconds = content.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        seconds = default_seconds
    unchanged = _observed.unchanged_for(file.url, data)
    expired = unchanged > min(float(seconds), MAX_SECONDS) or is_dead(content)
    return Holding(file, number, content, expired)


def holds(file: Location, token: str) -> bool:
    """Return whether a lease's file is there and carries ``token``."""
    try:
        return decode(file.read_bytes(limit=_LIMIT), file).get("token") == token
    except (MissingProductError, DamagedProductError):
        return False


def numbers(folder: Location) -> list[int]:
    """Return the numbers of the lease files in ``folder``, ascending."""
    return sorted(int(found[1]) for name in folder.names() if (found := _FILE.fullmatch(name)))


def lost_sentence(folder: Location) -> str:
    """Return what to tell a holder that lost its lease."""
    return (
        f"The lease on {folder.parent.name}/{folder.name} was taken over by another process "
        "(was this one stopped, or the store unreachable for long?); start again to use its result."
    )


class _Observations:
    """When each lease was first seen as it is now, by this process's own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def unchanged_for(self, url: str, data: bytes) -> float:
        """Return for how many seconds the file has been seen with these very bytes."""
        now = time.monotonic()
        with self._lock:
            before = self._seen.get(url)
            if before is None or before[0] != data:
                self._seen[url] = (data, now)
                return 0.0
            return now - before[1]


_observed = _Observations()
