"""A zarr store in an attempt: every file's digest is recorded as it is written.

Size and sha256 are taken from the very bytes that are handed to the storage: nothing is read
back.
"""

import asyncio
from collections.abc import Iterable, Set

from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from soapworks.storage_schemas.locations.failures import translate_errors
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digests import Digests, below, digest_of
from soapworks.storage_schemas.publishing.parts import read_parts

_METADATA = "zarr.json"

_SMALL = 2**16
"""Bytes up to which a digest costs less than a change of threads."""


class DigestingStore(WrapperStore[ZarrStore]):
    """A zarr store in an attempt that records digests and translates errors.

    Parameters
    ----------
    store
        The store that does the work.
    attempt
        The attempt's folder.
    name
        Path of the store inside the attempt.
    makes_arrays
        Whether this process alone writes the metadata. They are then not asked of the storage:
        zarr looks for them several times for each array that it is about to make.
    """

    def __init__(
        self, store: ZarrStore, attempt: Location, name: str, *, makes_arrays: bool = False
    ) -> None:
        super().__init__(store)
        self._attempt, self._name, self._makes_arrays = attempt, name, makes_arrays
        self._digests = Digests.of(attempt)
        self._metadata: dict[str, Buffer] = {}

    def __reduce__(self) -> tuple[type, tuple[ZarrStore, Location, str]]:
        """Pickle what is needed elsewhere: another process keeps a record of its own."""
        return type(self), (self._store, self._attempt, self._name)

    def _with_store(self, store: ZarrStore) -> "DigestingStore":
        other = type(self)(store, self._attempt, self._name, makes_arrays=self._makes_arrays)
        other._metadata = self._metadata
        return other

    def _is_not_made(self, key: str) -> bool:
        return self._makes_arrays and _is_metadata(key) and not self._digests.has(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._name}/{key}" if key else self._name

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a file's bytes; zarr looks at what is there before it writes."""
        if key in self._metadata and byte_range is None:
            return self._metadata[key]
        if self._is_not_made(key):
            return None
        with translate_errors(self._attempt / self._path(key), "read"):
            return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        if key in self._metadata:
            return True
        if self._is_not_made(key):
            return False
        with translate_errors(self._attempt / self._path(key), "read"):
            return await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file and record it once it is there."""
        view = memoryview(value.as_buffer_like())
        with translate_errors(self._attempt / self._path(key), "write"):
            if view.nbytes < _SMALL:
                digest = digest_of(view)
                await self._store.set(key, value)
            else:
                digest, _ = await asyncio.gather(
                    asyncio.to_thread(digest_of, view), self._store.set(key, value)
                )
        self._digests.record(self._path(key), digest)
        if self._makes_arrays and _is_metadata(key):
            self._metadata[key] = value

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file unless it is there; attempts have one writer per file."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(key, value) for key, value in values))

    async def delete(self, key: str) -> None:
        """Delete a file and record that it is empty."""
        with translate_errors(self._attempt / self._path(key), "delete"):
            await self._store.delete(key)
        self._metadata.pop(key, None)
        self._digests.record(self._path(key), None)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a folder, except for what belongs to finished parts.

        Making an array with ``overwrite=True`` deletes its folder; the chunks that were taken
        over from an earlier attempt must outlive that.
        """
        folder = self._path(prefix)
        with translate_errors(self._attempt / folder, "delete"):
            kept = await asyncio.to_thread(self._finished_below, folder)
            if not kept:
                await self._store.delete_dir(prefix)
            else:
                names = [name async for name in self._store.list_prefix(prefix)]
                for name in names:
                    if self._path(name) not in kept:
                        await self._store.delete(name)
        for key in [key for key in self._metadata if below(key, prefix)]:
            del self._metadata[key]
        self._digests.forget(folder, kept=kept)

    async def clear(self) -> None:
        """Delete everything that belongs to no finished part."""
        await self.delete_dir("")

    def _finished_below(self, folder: str) -> Set[str]:
        finished = read_parts(self._attempt).values()
        return {path for part in finished for path in part.files if below(path, folder)}


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] == _METADATA
