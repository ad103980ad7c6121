"""Attempts: a product in the making.

An attempt works in a folder of its own, ``attempt-<12 hex>``, that no reader looks at before the
completion record names it. What is finished is noted in parts::

    attempt-<12 hex>/parts/<part>.json
        {"format": 1, "part", "files": {path relative to the attempt: {"bytes", "sha256"}}}

A part's note is written after its files, so a part whose note agrees with its files is whole,
whenever its writer was killed. A later attempt at the same product takes such parts over.
"""

import contextlib
import platform
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Any, Literal, Self

import zarr

from soapworks.errors import DamagedProductError, InputError, MissingProductError, StoreError
from storage_schemas.digests import DigestingStore, Digests, FileDigest, digest_of
from storage_schemas.leases import Lease, LeaseLostError, holds, lost_sentence
from storage_schemas.location import Location
from storage_schemas.names import (
    MAX_DOCUMENT_BYTES,
    PARTIAL,
    decode,
    encode,
    safe_part,
    safe_path,
)
from storage_schemas.processes import this_machine
from storage_schemas.products import (
    ATTEMPT_NAME,
    FORMAT,
    PARTS,
    RECORD,
    Damage,
    Product,
    as_json,
    encode_record,
    files_of,
    read_product,
)
from storage_schemas.recipes import Recipe

_READERS = 4


@dataclass(frozen=True)
class AttemptWriter:
    """What writes into an attempt, here or in another process: picklable, holds no lease itself.

    Files of an attempt are written once, each by one writer; a part is finished by the process
    that wrote its files, because digests are taken as the bytes go by.

    Attributes
    ----------
    attempt
        The attempt's folder.
    lease_file, token
        The lease under which the attempt works.
    """

    attempt: Location
    lease_file: Location
    token: str

    def zarr_group(
        self, name: str = "arrays.zarr", mode: Literal["a", "r+", "r", "w"] = "a"
    ) -> zarr.Group:
        """Return the zarr group ``name`` of the attempt.

        Parameters
        ----------
        mode
            "a": open, or make where it is missing ("w" means the same: an attempt starts empty,
            and finished parts that were taken over must not be wiped); "r+": it must be there.

        Warnings
        --------
        Make arrays without ``overwrite=True``: that deletes the chunks of finished parts.
        """
        self._own(name)
        store = (self.attempt / name).zarr_store(read_only=mode == "r")
        digesting = DigestingStore(store, self.attempt, name)
        if mode == "w":
            mode = "a"
        return zarr.open_group(digesting, mode=mode, zarr_format=3, use_consolidated=False)

    def write(self, name: str, data: bytes) -> None:
        """Write one file of the attempt, whole or not at all."""
        (self.attempt / self._own(name)).write_bytes(data, durable=False)
        Digests.of(self.attempt).record(name, digest_of(data))

    def finish_part(self, part: str, files_prefixes: Iterable[str]) -> None:
        """Note that all files at or below some paths are finished.

        Parameters
        ----------
        part
            Name of the part, for example ``block-00012``.
        files_prefixes
            Paths relative to the attempt, of files or folders (``arrays.zarr/features/c/12``).

        Raises
        ------
        InputError
            If this process wrote nothing below one of the paths.
        LeaseLostError
            If another process took the product over.
        """
        digests, files = Digests.of(self.attempt), dict[str, FileDigest]()
        for prefix in files_prefixes:
            written = digests.below([safe_path(prefix.rstrip("/"))])
            if not written:
                raise InputError(
                    f"Part {part} cannot be finished: this process wrote no file {prefix!r} in "
                    f"{self.attempt}."
                )
            files |= {path: digest for path, digest in written.items() if digest is not None}
        note = {"format": FORMAT, "part": safe_part(part), "files": as_json(files)}
        self.check()
        (self.attempt / PARTS / f"{part}.json").write_bytes(encode(note), durable=False)

    def finished_parts(self) -> set[str]:
        """Return the names of the finished parts, those taken over too."""
        names = (self.attempt / PARTS).names()
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def check(self) -> None:
        """Raise LeaseLostError if the lease that this writes under is gone: one small read."""
        if not holds(self.lease_file, self.token):
            raise LeaseLostError(lost_sentence(self.attempt.parent))

    def _own(self, name: str) -> str:
        if safe_path(name).split("/")[0] == PARTS or name.endswith(PARTIAL):
            raise InputError(f"{name!r} is a name that the store keeps for itself.")
        return name


class Attempt:
    """A product that this process makes; a context manager.

    Leaving it without :meth:`publish` gives the lease back and keeps finished parts for the next
    attempt.

    Attributes
    ----------
    recipe
        What is made.
    location
        The attempt's folder.
    writer
        What writes into it; may be sent to other processes.
    mends
        What was found damaged of a product that was published before; empty for a new one.
    """

    def __init__(
        self, recipe: Recipe, location: Location, lease: Lease, mends: tuple[Damage, ...] = ()
    ) -> None:
        self.recipe, self.location, self.mends = recipe, location, mends
        self.writer = AttemptWriter(location, lease.file, lease.token)
        self._lease = lease
        self._digests = Digests.of(location)
        self._published = False
        # Also where the attempt is dropped without being entered, and at the process's end.
        self._release = weakref.finalize(self, lease.release)

    @property
    def address(self) -> Location:
        """The product's folder."""
        return self.location.parent

    @property
    def lost(self) -> bool:
        """Whether another process took the product over: stop working on it."""
        return self._lease.lost

    def __enter__(self) -> Self:
        """Return the attempt."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lease back; drop the folder where it holds nothing worth keeping."""
        if not self._published:
            with contextlib.suppress(StoreError):  # the error under way matters more
                if not self.writer.finished_parts():
                    self.location.delete()
        self._release()

    def publish(self, facts: dict[str, Any]) -> Product:
        """Make the attempt the product.

        Parameters
        ----------
        facts
            Plain JSON values about the product; equal for equal recipes.

        Returns
        -------
        Product
            This one, or that of another process that was first; this attempt is then dropped.

        Raises
        ------
        LeaseLostError
            If another process took over and is not done.
        StoreError
            If a file is missing, not whole, or was written outside of every part.
        """
        files = self._files()
        record = {
            "format": FORMAT,
            "kind": self.recipe.kind,
            "key": self.recipe.key,
            "attempt": self.location.name,
            "files": as_json(files),
            "facts": facts,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": made_by(),
        }
        data = encode_record(record)
        self.location.sync(list(files))
        try:
            self._lease.check()
        except LeaseLostError:
            winner = read_product(self.address, self.recipe.key)
            if winner is None:
                raise
            return self._adopt(winner)
        if not (self.address / RECORD).create(data):
            winner = read_product(self.address, self.recipe.key)
            if winner is None:
                raise StoreError(f"{self.address} was deleted while it was published; start again.")
            # A put that was repeated after a lost answer finds its own record.
            if winner.data != self.location:
                return self._adopt(winner)
        self._published = True
        self._drop_others()
        self._release()
        return Product(self.recipe.key, self.recipe.kind, self.address, record)

    def take_over_parts(self) -> None:
        """Take over every finished part of earlier attempts that is whole, and nothing else."""
        for name in self.address.names():
            if ATTEMPT_NAME.fullmatch(name) and name != self.location.name:
                earlier = self.address / name
                sizes = earlier.sizes()
                parts = [path for path in sizes if path.startswith(PARTS + "/")]
                with ThreadPoolExecutor(_READERS) as readers:
                    wait = [readers.submit(self._take_over, earlier, p, sizes) for p in parts]
                for done in wait:
                    done.result()

    def _take_over(self, earlier: Location, path: str, sizes: dict[str, int]) -> None:
        if (self.location / path).size() is not None:
            return
        try:
            data = (earlier / path).read_bytes(limit=MAX_DOCUMENT_BYTES)
            files = read_part(data, earlier / path)
            for name, file in files.items():
                if sizes.get(name) != file.bytes:
                    return
                if FileDigest(*(earlier / name).digest()) != file:
                    return
            for name in files:
                if name.rpartition("/")[2] == "zarr.json":
                    continue  # the arrays are made anew, in the chunks that are there already
                (self.location / name).copy_from(earlier / name)
            (self.location / path).write_bytes(data, durable=False)
        except (DamagedProductError, MissingProductError, InputError):
            return  # torn, changed or being deleted: made again

    def _files(self) -> dict[str, FileDigest]:
        """Return all files of the attempt, checked to be there and to be accounted for."""
        files: dict[str, FileDigest] = {}
        for name in sorted((self.location / PARTS).names()):
            if not name.endswith(PARTIAL):
                path = f"{PARTS}/{name}"
                data = (self.location / path).read_bytes(limit=MAX_DOCUMENT_BYTES)
                files |= read_part(data, self.location / path)
                files[path] = digest_of(data)
        for path, digest in self._digests.below().items():
            if digest is not None:
                files[path] = digest
        found = self.location.sizes()
        for path in found:
            if path not in files and not path.endswith(PARTIAL):
                raise StoreError(
                    f"{self.location / path} was written outside of every finished part, so "
                    "nobody knows whether it is whole; start again."
                )
        for path, file in files.items():
            if found.get(path) != file.bytes:
                raise StoreError(
                    f"{self.location / path} is missing or not whole; start again to make it anew."
                )
        if not files:
            raise InputError(f"Nothing was written for {self.address}: there is no product.")
        return dict(sorted(files.items()))

    def _adopt(self, winner: Product) -> Product:
        self._published = True
        with contextlib.suppress(StoreError):
            self.location.delete()
        self._release()
        return winner

    def _drop_others(self) -> None:
        # What cannot be deleted now is found by gc; another holder's attempt is left alone.
        with contextlib.suppress(StoreError):
            self._lease.check()
            for name in self.address.names():
                if ATTEMPT_NAME.fullmatch(name) and name != self.location.name:
                    (self.address / name).delete()


def read_part(data: bytes, where: Location) -> dict[str, FileDigest]:
    """Return the files of a part's note.

    Raises
    ------
    DamagedProductError
        If it is not one.
    """
    note = decode(data, where)
    if note.get("format") != FORMAT or note.get("part") != where.name.removesuffix(".json"):
        raise DamagedProductError(f"{where} is not the note of that part.")
    try:
        return files_of(note)
    except InputError as error:
        raise DamagedProductError(f"{where} is refused: {error}") from error


def made_by() -> dict[str, str]:
    """Return versions and host, for the record."""
    versions = {}
    for name in ("soapworks", "zarr", "numpy", "torch", "timm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    host = this_machine()["host"]
    return {**versions, "python": platform.python_version(), "host": host}
