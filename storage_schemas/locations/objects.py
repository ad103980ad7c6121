"""Objects in a bucket, or any other file system that fsspec knows: the same steps as on a disk.

A put is atomic; creating only if absent is a conditional put (``If-None-Match: *`` on S3). There
are no folders: one exists while something lies below it. Where a server has no conditional puts,
the callers' own looking before and after (``leases.py``) is all that keeps two writers apart.
"""

import hashlib
import time
from collections.abc import Iterable

import fsspec

from soapworks.remote import OPTIONS, set_up

_PIECE = 2**25

_WITH_FOLDERS = {"memory", "sftp", "ssh", "smb", "hdfs", "webhdfs"}

_TAKEN = 412
_ANOTHER_AT_IT = 409
_NO_CONDITIONS = 501
_PAST_THE_END = 416


class Objects:
    """A file system of fsspec; paths are the URLs' without protocol."""

    def __init__(self, protocol: str) -> None:
        self._fs = set_up(fsspec.filesystem(protocol, **OPTIONS))
        self._protocol = protocol

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return the object's bytes, at most ``limit + 1`` of them when a limit is given."""
        if limit is None:
            return self._fs.cat_file(self._at(path))
        return self._piece(path, 0, limit + 1)

    def digest(self, path: str) -> tuple[int, str]:
        """Return size in bytes and sha256 of the object, read in pieces."""
        digest, size = hashlib.sha256(), 0
        while True:
            piece = self._piece(path, size, size + _PIECE)
            digest.update(piece)
            size += len(piece)
            if len(piece) < _PIECE:
                return size, digest.hexdigest()

    def _piece(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of a range, none past the object's end: one request, no size asked."""
        try:
            return self._fs.cat_file(self._at(path), start=start, end=end)
        except OSError as error:
            if _http_status(error) == _PAST_THE_END:
                return b""
            raise

    def write(self, path: str, data: bytes, *, durable: bool, root: str = "") -> None:
        """Put the object, over an older one."""
        self._make_parent(path)
        self._fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes, *, durable: bool, root: str = "") -> bool:
        """Put the object if there is none; False if there is one."""
        self._make_parent(path)
        for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
            try:
                self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                status = _http_status(error)
                if status == _TAKEN:
                    return False
                if status == _NO_CONDITIONS:
                    self._fs.pipe_file(self._at(path), data)
                elif status == _ANOTHER_AT_IT:
                    time.sleep(pause)
                    continue
                else:
                    raise
            return True
        raise TimeoutError("others keep creating the same object")

    def copy(self, source: str, target: str) -> None:
        """Copy an object on the server."""
        self._make_parent(target)
        self._fs.cp_file(self._at(source), self._at(target))

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes; None if there is none."""
        try:
            found = self._fs.info(self._at(path))
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def names(self, path: str) -> list[str]:
        """Return the names directly below a path, sorted."""
        try:
            found = self._fs.ls(self._at(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        root = self._at(path) + "/"
        names = {str(name).rstrip("/").removeprefix(root) for name in found}
        return sorted(name for name in names if name and "/" not in name)

    def sizes(self, path: str) -> dict[str, int]:
        """Return relative path -> bytes of all objects below a path."""
        try:
            found = self._fs.find(self._at(path), detail=True)
        except FileNotFoundError:
            return {}
        root = self._at(path) + "/"
        return {
            name.removeprefix(root): int(info["size"] or 0)
            for name, info in sorted(found.items())
            if name.startswith(root) and not name.endswith("/")
        }

    def sizes_of(self, path: str, files: Iterable[str]) -> dict[str, int]:
        """Return relative path -> bytes of those of ``files`` that are there: one listing."""
        sizes = self.sizes(path)
        return {name: sizes[name] for name in files if name in sizes}

    def sync(self, path: str, files: list[str], root: str = "") -> None:
        """Do nothing: an acknowledged put is durable."""

    def delete(self, path: str) -> None:
        """Delete an object, or all below a path; missing is fine."""
        try:
            self._fs.rm(self._at(path), recursive=True)
        except FileNotFoundError:
            return

    def delete_file(self, path: str) -> None:
        """Delete one object, in one request; missing is fine."""
        try:
            self._fs.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def delete_if_empty(self, path: str) -> None:
        """Do nothing: there are no empty folders."""

    def free_bytes(self, path: str) -> None:
        """Return None: a bucket has no end that could be asked for."""

    def _at(self, path: str) -> str:
        """Return the path as this file system writes it (memory:// wants a leading slash)."""
        return str(self._fs._strip_protocol(f"{self._protocol}://{path}")).rstrip("/")

    def _make_parent(self, path: str) -> None:
        # Only file systems with real folders need it; on S3 it would try to make the bucket.
        if self._protocol in _WITH_FOLDERS:
            self._fs.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)


def _http_status(error: OSError) -> int | None:
    """Return the status of the server's answer, where botocore's error is the cause."""
    answer = getattr(error.__cause__, "response", None)
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if answer else None
