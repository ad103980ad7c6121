"""Leases: one worker per product; a crashed holder blocks others only until its lease expires.

Leases prevent double work; a product is correct by its record alone (see ``store.py``). The
protocol is the same on a disk and in a bucket::

    <address>/lease-000001.json   {"format": 1, "token", "beat", "seconds", "since", "host", "boot",
                                   "namespace", "pid", "started"}

* A process acquires the lease by creating the file with the next number, only if absent, and only
  where there is no lease or the newest has expired. The highest number is valid; older files are
  deleted.
* The holder rewrites its file with a growing ``beat`` every quarter of ``seconds``. It has lost
  when its file is gone or carries another token, or a higher number is there.
* A lease has expired when its bytes did not change for ``seconds`` by the *observer's* clock:
  clocks of two machines are never compared. A holder on this machine whose process is gone has
  expired at once.
* Release deletes the file; so does the end of the process, in order or by SIGTERM.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from soapworks.errors import StoreError
from soapworks.storage_schemas.layout.names import encode
from soapworks.storage_schemas.leasing import heartbeats
from soapworks.storage_schemas.leasing.lease_state import file_name, holds, numbers, read_lease
from soapworks.storage_schemas.leasing.processes import this_process
from soapworks.storage_schemas.locations.location import Location

FORMAT = 1

POLL_SECONDS = 0.1
"""Time between two looks at a lease that is waited for, seconds."""


class HeldError(StoreError):
    """Another process holds the lease."""


class LeaseLostError(StoreError):
    """The lease on a product was taken over: another process makes it now."""


class Lease:
    """A lease that this process took; see :func:`acquire`.

    Attributes
    ----------
    file
        Location of the lease's file.
    number
        Number of the lease; the highest one holds.
    token
        Random name of this lease.
    seconds
        Seconds without a heartbeat after which the lease expires.
    """

    def __init__(self, folder: Location, number: int, seconds: float) -> None:
        self.file = folder / file_name(number)
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
        """Write a heartbeat; a storage that fails loses the lease once it has expired."""
        with self._lock:
            if self._lost:
                return
            try:
                if self._is_newest():
                    self._beat += 1
                    self.file.write_bytes(self.content(), durable=False)
                    self._alive = time.monotonic()
                else:
                    self._give_up()
            except StoreError:
                if time.monotonic() - self._alive > self.seconds:
                    self._lost = True

    def check(self) -> None:
        """Raise an error unless the lease is still valid.

        Raises
        ------
        LeaseLostError
            If another process has taken over.
        """
        with self._lock:
            if not self._lost and not self._is_newest():
                self._give_up()
            if self._lost:
                raise LeaseLostError(lost_message(self._folder))

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

    def abandon(self) -> None:
        """Leave the lease to expiry without asking the storage for anything."""
        heartbeats.stop(self)
        self._lost = True

    def _is_newest(self) -> bool:
        newest = max(numbers(self._folder), default=0)
        return newest == self.number and holds(self.file, self.token)

    def _give_up(self) -> None:
        self._lost = True
        if holds(self.file, self.token):
            self.file.delete_file()


def acquire(folder: Location, seconds: float) -> Lease | None:
    """Take the lease on the product in ``folder``; None while another process holds it.

    Parameters
    ----------
    folder
        The product's address.
    seconds
        Seconds without a heartbeat after which the lease expires.

    Raises
    ------
    StoreError
        If the storage fails.
    """
    before = read_lease(folder, default_seconds=seconds)
    if before is not None and not before.expired:
        return None
    lease = Lease(folder, before.number + 1 if before else 1, seconds)
    # What was created is asked of the file: a put that was repeated after a lost answer finds its
    # own lease, and where a server has no conditional puts another may have been a moment later.
    try:
        lease.file.create(lease.content(), durable=False)
        if not holds(lease.file, lease.token):
            return None
    except StoreError:
        with contextlib.suppress(StoreError):
            lease.release()
        raise
    heartbeats.start(lease)
    # Between looking and creating, others may have come and gone, and a later number may stand.
    for number in numbers(folder):
        if number > lease.number:
            lease.release()
            return None
        if number < lease.number:
            (folder / file_name(number)).delete_file()
    return lease


@contextlib.contextmanager
def held(
    folder: Location,
    seconds: float,
    *,
    patience: float = 0.0,
    waiting: Callable[[], None] | None = None,
) -> Iterator[Lease]:
    """Hold the lease on ``folder`` inside the block.

    Parameters
    ----------
    folder, seconds
        As for :func:`acquire`.
    patience
        Longest wait for another holder, seconds.
    waiting
        Called once where another holder is waited for.

    Raises
    ------
    HeldError
        If another process still holds it then.
    """
    end = time.monotonic() + patience
    while (lease := acquire(folder, seconds)) is None:
        if time.monotonic() >= end:
            raise HeldError(
                f"{folder.parent.name}/{folder.name} is being worked on ({read_lease(folder)}); "
                "try again when that has ended"
            )
        if waiting:
            waiting()
            waiting = None
        time.sleep(POLL_SECONDS)
    try:
        yield lease
    finally:
        lease.release()


def lost_message(folder: Location) -> str:
    """Return the message for a holder that lost its lease."""
    return (
        f"the lease on {folder.parent.name}/{folder.name} was taken over by another process "
        "(was this one stopped, or the store unreachable for long?); start again to use its result"
    )
