"""A published product as a zarr store: exactly the files that its record names, and read only.

zarr reads a chunk that is missing as the fill value. Here a chunk that the record names and that
is gone is an error, and a file that the record does not name (a link to somewhere else, say) is
not there at all. Chunks carry checksums; the metadata, which say how many chunks there are and how
they are stored, are compared with the record.
"""

import functools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.layout.completeness import known_lengths
from soapworks.storage_schemas.locations.failures import translate_errors
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digests import FileDigest, below, digest_of
from soapworks.storage_schemas.publishing.records import decode_record, files_of

_METADATA = "zarr.json"

_WHOLE_BYTES = 50 * 2**20
"""Objects up to this size are asked for by their known length, in one request: left alone s3fs asks
for the length first, to fetch larger ones in pieces of this size."""


class PublishedStore(WrapperStore[ZarrStore]):
    """Read access to one zarr store of a product.

    Parameters
    ----------
    store
        The store that does the reading.
    folder
        Where it lies.
    files
        Its files: path relative to ``folder`` -> size and digest.
    lengths
        Axis -> length, as far as the product's facts state it.
    """

    def __init__(
        self,
        store: ZarrStore,
        folder: Location,
        files: dict[str, FileDigest],
        lengths: Mapping[str, int],
    ) -> None:
        super().__init__(store)
        self._folder, self._files, self.lengths = folder, files, lengths

    def n_bytes(self, folder: str) -> int:
        """Return the bytes of all files below a folder, as the record states them."""
        return sum(file.bytes for key, file in self._files.items() if below(key, folder))

    @property
    def address(self) -> str:
        """The product's address within its store."""
        product = self._folder.parent.parent
        return f"{product.parent.name}/{product.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place alone: the names may be many, and the record has them."""
        return published_store, (self._folder,)

    def _with_store(self, store: ZarrStore) -> "PublishedStore":
        return type(self)(store, self._folder, self._files, self.lengths)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a file's bytes; None for what the record does not name.

        Raises
        ------
        DamagedProductError
            If the record names the file and it is gone, or metadata were changed.
        """
        if key not in self._files:
            return None
        asked = byte_range
        if byte_range is None and self._folder.local_path is None:
            n_bytes = self._files[key].bytes
            asked = RangeByteRequest(0, n_bytes) if 0 < n_bytes <= _WHOLE_BYTES else None
        with translate_errors(self._folder, "read"):
            found = await self._store.get(key, prototype, asked)
        if found is None:
            raise self._damaged(key, "is missing")
        whole = key.rpartition("/")[2] == _METADATA and byte_range is None
        if whole and digest_of(found.to_bytes()) != self._files[key]:
            raise self._damaged(key, "was changed")
        return found

    def _damaged(self, key: str, wrong: str) -> DamagedProductError:
        return DamagedProductError.of(self.address, f"{self._folder.name}/{key} {wrong}")

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return pieces of files."""
        return [await self.get(key, prototype, piece) for key, piece in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether the record names the file."""
        return key in self._files

    async def list(self) -> AsyncIterator[str]:
        """Yield all files."""
        for key in sorted(self._files):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield all files whose path begins so."""
        for key in sorted(self._files):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a folder."""
        root = prefix.rstrip("/") + "/" if prefix else ""
        names = {key[len(root) :].split("/")[0] for key in self._files if key.startswith(root)}
        for name in sorted(names):
            yield name

    @property
    def supports_writes(self) -> bool:
        """False: what is published is not changed."""
        return False


@functools.lru_cache(maxsize=64)
def published_store(folder: Location) -> PublishedStore:
    """Return the zarr store in a published product's folder ``<address>/<attempt>/<name>``.

    Raises
    ------
    DamagedProductError
        If the attempt is not the one that the record names (any more).
    """
    attempt = folder.parent
    record = decode_record(attempt.parent)
    if record["attempt"] != attempt.name:
        raise DamagedProductError(f"{attempt.parent} was made again meanwhile; start again")
    root = f"{folder.name}/"
    files = {
        path.removeprefix(root): digest
        for path, digest in files_of(record).items()
        if path.startswith(root)
    }
    lengths = known_lengths({}, record["facts"])
    return PublishedStore(folder.zarr_store(read_only=True), folder, files, lengths)
