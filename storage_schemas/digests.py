"""Sizes and digests of files, taken while they are written.

A zarr store is wrapped so that every file's size and sha256 are recorded from the very bytes that
are handed to the storage: nothing is read back. All writers of one attempt in one process share
one record.
"""

import asyncio
import hashlib
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from storage_schemas.location import Location, told

_SMALL = 2**16


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and sha256 (64 hex digits) of a file."""

    bytes: int
    sha256: str


class Digests:
    """The files that this process wrote into one attempt: path -> digest.

    A file that was written and then deleted is remembered as empty: zarr deletes chunks that hold
    nothing but the fill value.
    """

    _of: ClassVar["weakref.WeakValueDictionary[str, Digests]"] = weakref.WeakValueDictionary()
    _of_lock: ClassVar = threading.Lock()

    def __init__(self) -> None:
        self._files: dict[str, FileDigest | None] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, attempt: Location) -> "Digests":
        """Return the one record of this process for an attempt."""
        with cls._of_lock:
            digests = cls._of.get(attempt.url)
            if digests is None:
                digests = cls._of[attempt.url] = cls()
            return digests

    def record(self, path: str, digest: FileDigest | None) -> None:
        """Note what was written at ``path``, relative to the attempt; None: deleted."""
        with self._lock:
            self._files[path] = digest

    def forget_below(self, folder: str) -> None:
        """Drop all files below a folder: it was deleted."""
        with self._lock:
            for path in [path for path in self._files if _below(path, folder)]:
                del self._files[path]

    def below(self, prefixes: Iterable[str] = ("",)) -> dict[str, FileDigest | None]:
        """Return the files at or below any of the paths, sorted; the empty path is everything."""
        with self._lock:
            files = dict(self._files)
        prefixes = [prefix.rstrip("/") for prefix in prefixes]
        return {
            path: files[path]
            for path in sorted(files)
            if any(_below(path, prefix) for prefix in prefixes)
        }


def digest_of(data: "bytes | memoryview") -> FileDigest:
    """Return the digest of bytes."""
    return FileDigest(memoryview(data).nbytes, hashlib.sha256(data).hexdigest())


class DigestingStore(WrapperStore[ZarrStore]):
    """A zarr store in an attempt that records what is written, and tells what goes wrong.

    Parameters
    ----------
    store
        The store that does the work.
    attempt
        The attempt's folder.
    name
        Path of the store inside the attempt.
    """

    def __init__(self, store: ZarrStore, attempt: Location, name: str) -> None:
        super().__init__(store)
        self._attempt, self._name = attempt, name
        self._digests = Digests.of(attempt)

    def __reduce__(self) -> tuple[type, tuple[ZarrStore, Location, str]]:
        """Pickle what is needed elsewhere: another process keeps a record of its own."""
        return type(self), (self._store, self._attempt, self._name)

    def _with_store(self, store: ZarrStore) -> "DigestingStore":
        return type(self)(store, self._attempt, self._name)

    def _path(self, key: str) -> str:
        return f"{self._name}/{key}" if key else self._name

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file and record it once it is there."""
        view = memoryview(value.as_buffer_like())
        with told(self._attempt / self._path(key), "write"):
            if view.nbytes < _SMALL:
                digest = digest_of(view)
                await self._store.set(key, value)
            else:
                digest, _ = await asyncio.gather(
                    asyncio.to_thread(digest_of, view), self._store.set(key, value)
                )
        self._digests.record(self._path(key), digest)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file unless it is there; attempts have one writer per file."""
        if not await self._store.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(key, value) for key, value in values))

    async def delete(self, key: str) -> None:
        """Delete a file and record that it is empty."""
        with told(self._attempt / self._path(key), "delete"):
            await self._store.delete(key)
        self._digests.record(self._path(key), None)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a folder and forget its files."""
        with told(self._attempt / self._path(prefix), "delete"):
            await self._store.delete_dir(prefix)
        self._digests.forget_below(self._path(prefix))

    async def clear(self) -> None:
        """Delete everything and forget it."""
        await self._store.clear()
        self._digests.forget_below(self._name)


def _below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(folder + "/")
