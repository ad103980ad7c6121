"""Locations: a place in a store, on a disk or in a bucket, with the atomic steps all rests on.

A location is a plain value (immutable, hashable, picklable); connections are made where it is
used. Two steps matter: :meth:`Location.write_bytes` replaces a file whole or not at all, and
:meth:`Location.create` makes it only if there is none, whoever else tries at the same time.
"""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store as ZarrStore

from soapworks.errors import InputError, StoreError
from soapworks.remote import OPTIONS, check_url, set_up
from soapworks.storage_schemas.layout.names import safe_path
from soapworks.storage_schemas.locations.disk import Disk, refuse_links
from soapworks.storage_schemas.locations.failures import translate_errors
from soapworks.storage_schemas.locations.objects import Objects


class Driver(Protocol):
    """What a kind of storage can do; see :class:`soapworks.storage_schemas.locations.disk.Disk`."""

    def read(self, path: str, limit: int | None = None) -> bytes: ...  # noqa: D102
    def digest(self, path: str) -> tuple[int, str]: ...  # noqa: D102
    def write(self, path: str, data: bytes, *, durable: bool, root: str = "") -> None: ...  # noqa: D102
    def create(self, path: str, data: bytes, *, durable: bool, root: str = "") -> bool: ...  # noqa: D102
    def copy(self, source: str, target: str) -> None: ...  # noqa: D102
    def size(self, path: str) -> int | None: ...  # noqa: D102
    def names(self, path: str) -> list[str]: ...  # noqa: D102
    def sizes(self, path: str) -> dict[str, int]: ...  # noqa: D102
    def sizes_of(self, path: str, files: Iterable[str]) -> dict[str, int]: ...  # noqa: D102
    def sync(self, path: str, files: list[str], root: str = "") -> None: ...  # noqa: D102
    def delete(self, path: str) -> None: ...  # noqa: D102
    def delete_file(self, path: str) -> None: ...  # noqa: D102
    def delete_if_empty(self, path: str) -> None: ...  # noqa: D102
    def free_bytes(self, path: str) -> int | None: ...  # noqa: D102


@functools.cache
def _driver(protocol: str) -> Driver:
    if not protocol:
        return Disk()
    try:
        return Objects(protocol)
    except (ImportError, ValueError) as error:
        raise InputError(f"addresses that start with {protocol}:// cannot be used: {error}") from (
            error
        )


@dataclass(frozen=True)
class Location:
    """A file or folder in a store.

    Attributes
    ----------
    url
        An absolute path on this machine's disks, or a URL (``s3://bucket/prefix``); no trailing
        slash. A ``file://`` URL is kept as a plain path.
    root
        The location that this was made from by ``/``: a store. Between it and here, symbolic
        links are neither written nor deleted through.
    """

    url: str
    root: str = field(default="", compare=False, repr=False)

    @classmethod
    def parse(cls, url: "str | Path | Location") -> "Location":
        """Return the location of a path or URL as a person writes it.

        Raises
        ------
        InputError
            If it is empty, a chain of file systems, or carries a password.
        """
        if isinstance(url, Location):
            return url
        text = str(url)
        if not text or "\0" in text or "::" in text:
            raise InputError(f"{text!r} is not the address of a store: give a folder or a URL")
        protocol, separator, rest = text.partition("://")
        if not separator:
            return cls(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
        if protocol in ("file", "local"):
            return cls(os.path.abspath("/" + rest.lstrip("/")))  # noqa: PTH100
        check_url(text)
        return cls(f"{protocol}://{rest.strip('/')}")

    @property
    def name(self) -> str:
        """Last component."""
        return self.url.rpartition("/")[2]

    @property
    def local_path(self) -> Path | None:
        """The path on this machine's disks; None for anything else."""
        return None if "://" in self.url else Path(self.url)

    def __str__(self) -> str:
        """Return the path or URL."""
        return self.url

    def __truediv__(self, part: str) -> "Location":
        """Return the location of a relative path below this; InputError if it leads elsewhere."""
        return Location(f"{self.url.rstrip('/')}/{safe_path(part)}", self.root or self.url)

    @property
    def parent(self) -> "Location":
        """The folder that this lies in."""
        url = self.url.rpartition("/")[0]
        return Location(url, self.root if url.startswith(self.root) else "")

    @property
    def _protocol(self) -> str:
        return self.url.partition("://")[0] if "://" in self.url else ""

    @property
    def _path(self) -> str:
        return self.url.partition("://")[2] if "://" in self.url else self.url

    def read_bytes(self, *, limit: int | None = None) -> bytes:
        """Return the file's bytes, at most ``limit + 1`` of them when a limit is given.

        Raises
        ------
        MissingProductError
            If there is no such file.
        StoreError
            If it cannot be read, or is a symbolic link.
        """
        with translate_errors(self, "read"):
            return self._do().read(self._path, limit)

    def digest(self) -> tuple[int, str]:
        """Return size in bytes and sha256 of the file, read in pieces."""
        with translate_errors(self, "read"):
            return self._do().digest(self._path)

    def write_bytes(self, data: bytes, *, durable: bool = True) -> None:
        """Replace the file whole or not at all.

        Parameters
        ----------
        durable
            Whether it must outlast a power cut; it is whole or absent to any reader either way.
        """
        with self._changing("write"):
            self._do().write(self._path, data, durable=durable, root=self.root)

    def create(self, data: bytes, *, durable: bool = True) -> bool:
        """Write the file if there is none; False if there is one. Of many callers, one wins."""
        with self._changing("write"):
            return self._do().create(self._path, data, durable=durable, root=self.root)

    def copy_from(self, source: "Location") -> None:
        """Become a copy of ``source`` in the same store: a hard link, or a copy by the server."""
        with self._changing("write"):
            self._do().copy(source._path, self._path)

    def exists(self) -> bool:
        """Return whether this is a file, or a folder with something in it."""
        return self.size() is not None or bool(self.names())

    def size(self) -> int | None:
        """Return the file's size in bytes; None if there is no such file."""
        with translate_errors(self, "read"):
            return self._do().size(self._path)

    def names(self) -> list[str]:
        """Return the names in this folder, sorted."""
        with translate_errors(self, "list"):
            return self._do().names(self._path)

    def sizes(self) -> dict[str, int]:
        """Return relative path -> bytes of all files below this folder."""
        with translate_errors(self, "list"):
            return self._do().sizes(self._path)

    def sizes_of(self, files: Iterable[str]) -> dict[str, int]:
        """Return relative path -> bytes of those of ``files`` that are below this folder."""
        with translate_errors(self, "list"):
            return self._do().sizes_of(self._path, files)

    def sync(self, files: list[str]) -> None:
        """Make files below this folder durable."""
        with translate_errors(self, "write"):
            self._do().sync(self._path, files, self.root)

    def delete(self) -> None:
        """Delete the file, or the folder with all below; missing is fine."""
        with self._changing("delete"):
            self._do().delete(self._path)

    def delete_file(self) -> None:
        """Delete the file, known to be no folder; missing is fine."""
        with self._changing("delete"):
            self._do().delete_file(self._path)

    def delete_if_empty(self) -> None:
        """Delete this folder if nothing lies in it."""
        with contextlib.suppress(StoreError), self._changing("delete"):
            self._do().delete_if_empty(self._path)

    def free_bytes(self) -> int | None:
        """Return the bytes that can still be written here; None where nobody knows."""
        with translate_errors(self, "read"):
            return self._do().free_bytes(self._path)

    def zarr_store(self, *, read_only: bool) -> ZarrStore:
        """Return a zarr store rooted in this folder."""
        # zarr is given plain paths: with file:// URLs it does not make folders.
        if self.local_path is not None:
            from zarr.storage import LocalStore

            if not read_only:
                with self._changing("write", inside=True):
                    pass
            return LocalStore(self.local_path, read_only=read_only)
        from zarr.storage import FsspecStore

        with translate_errors(self, "open"):
            store = FsspecStore.from_url(self.url, storage_options=OPTIONS, read_only=read_only)
            set_up(store.fs)
            return store

    @contextlib.contextmanager
    def _changing(self, doing: str, *, inside: bool = False) -> Iterator[None]:
        """Translate errors of a change here, refused behind a symbolic link below the root.

        Parameters
        ----------
        inside
            Whether the change is made inside this folder; else its own name may be a link.
        """
        with translate_errors(self, doing):
            if self.root and self.local_path is not None:
                refuse_links(self.root, self.url if inside else self.url.rpartition("/")[0])
            yield

    def _do(self) -> Driver:
        return _driver(self._protocol)
