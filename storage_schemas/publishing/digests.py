"""Sizes and digests of files, and what a process wrote into an attempt."""

import hashlib
import threading
import weakref
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import ClassVar

from soapworks.storage_schemas.locations.location import Location


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

    def forget(self, folder: str, *, kept: Set[str]) -> None:
        """Drop all files below a folder that was deleted, except those that were kept."""
        with self._lock:
            for path in list(self._files):
                if below(path, folder) and path not in kept:
                    del self._files[path]

    def has(self, path: str) -> bool:
        """Return whether this process wrote a file, and did not delete it."""
        with self._lock:
            return self._files.get(path) is not None

    def written(self, prefixes: Iterable[str] = ("",)) -> dict[str, FileDigest | None]:
        """Return the files at or below any of the paths, sorted; the empty path is everything."""
        with self._lock:
            files = dict(self._files)
        # Asked once per part over all that was written before: plain string comparisons.
        exact = {prefix.rstrip("/") for prefix in prefixes}
        folders = tuple(prefix + "/" if prefix else "" for prefix in exact)
        found = (path for path in files if path.startswith(folders) or path in exact)
        return {path: files[path] for path in sorted(found)}


def digest_of(data: "bytes | memoryview") -> FileDigest:
    """Return the digest of bytes."""
    return FileDigest(memoryview(data).nbytes, hashlib.sha256(data).hexdigest())


def below(path: str, folder: str) -> bool:
    """Return whether a path is or lies below another; everything lies below the empty path."""
    return not folder or path == folder or path.startswith(folder + "/")
