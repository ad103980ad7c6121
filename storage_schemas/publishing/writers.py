"""Writing into an attempt, in the process that holds the lease or in another one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import zarr

from soapworks.errors import InputError
from soapworks.storage_schemas.layout.names import PARTIAL, encode, safe_part, safe_path
from soapworks.storage_schemas.leasing.lease_state import holds
from soapworks.storage_schemas.leasing.leases import LeaseLostError, lost_message
from soapworks.storage_schemas.locations.failures import translate_errors
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digesting_store import DigestingStore
from soapworks.storage_schemas.publishing.digests import Digests, FileDigest, digest_of
from soapworks.storage_schemas.publishing.records import FORMAT, PARTS, as_json


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
        """
        self._own(name)
        store = (self.attempt / name).zarr_store(read_only=mode == "r")
        # Whoever may make arrays does so alone; other processes write chunks of what is there.
        digesting = DigestingStore(store, self.attempt, name, makes_arrays=mode in ("a", "w"))
        if mode == "w":
            mode = "a"
        with translate_errors(
            self.attempt / name, "write"
        ):  # it makes folders, and reads what is there
            return zarr.open_group(digesting, mode=mode, zarr_format=3, use_consolidated=False)

    def write(self, name: str, data: bytes) -> None:
        """Write one file of the attempt, whole or not at all."""
        Digests.of(self.attempt).record(name, self._write(name, data))

    def write_part(self, part: str, name: str, data: bytes) -> None:
        """Write one file that is a part by itself, and note that it is finished.

        Raises
        ------
        LeaseLostError
            If another process took the product over.
        """
        # What is recorded lasts as long as somebody in the process holds it: an attempt, an array.
        self._finish(part, {name: self._write(name, data)})

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
            written = digests.written([safe_path(prefix.rstrip("/"))])
            if not written:
                raise InputError(
                    f"part {part} cannot be finished: this process wrote no file {prefix!r} in "
                    f"{self.attempt}"
                )
            files |= {path: digest for path, digest in written.items() if digest is not None}
        self._finish(part, files)

    def _write(self, name: str, data: bytes) -> FileDigest:
        (self.attempt / self._own(name)).write_bytes(data, durable=False)
        return digest_of(data)

    def _finish(self, part: str, files: dict[str, FileDigest]) -> None:
        note = {"format": FORMAT, "part": safe_part(part), "files": as_json(files)}
        self.check()
        (self.attempt / PARTS / f"{part}.json").write_bytes(encode(note), durable=False)

    def finished_parts(self) -> set[str]:
        """Return the names of the finished parts, those taken over too."""
        names = (self.attempt / PARTS).names()
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def has_part(self, part: str) -> bool:
        """Return whether one part is finished: one small request."""
        return (self.attempt / PARTS / f"{safe_part(part)}.json").size() is not None

    def check(self) -> None:
        """Raise LeaseLostError if the lease that this writes under is gone: one small read."""
        if not holds(self.lease_file, self.token):
            raise LeaseLostError(lost_message(self.attempt.parent))

    def _own(self, name: str) -> str:
        if safe_path(name).split("/")[0] == PARTS or name.endswith(PARTIAL):
            raise InputError(f"{name!r} is a name that the store keeps for itself")
        return name
