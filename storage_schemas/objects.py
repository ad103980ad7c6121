"""Objects in a bucket, or any other file system that fsspec knows: the same steps as on a disk.

A put is atomic; creating only if absent is a conditional put (``If-None-Match: *`` on S3). There
are no folders: one exists while something lies below it.
"""

import hashlib
from typing import Any

import fsspec

_PIECE = 2**25

OPTIONS: dict[str, Any] = {"use_listings_cache": False}
"""fsspec's cached listings would hide what other processes do."""


class Objects:
    """A file system of fsspec; paths are as that file system writes them, without protocol."""

    def __init__(self, protocol: str) -> None:
        self._fs = fsspec.filesystem(protocol, **OPTIONS)

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return the object's bytes, at most ``limit + 1`` of them when a limit is given."""
        if limit is not None and self._fs.info(path)["size"] > limit:
            return self._fs.cat_file(path, start=0, end=limit + 1)
        return self._fs.cat_file(path)

    def digest(self, path: str) -> tuple[int, str]:
        """Return size in bytes and sha256 of the object, read in pieces."""
        digest, size = hashlib.sha256(), int(self._fs.info(path)["size"])
        for start in range(0, size, _PIECE):
            digest.update(self._fs.cat_file(path, start=start, end=min(start + _PIECE, size)))
        return size, digest.hexdigest()

    def write(self, path: str, data: bytes, *, durable: bool) -> None:
        """Put the object, over an older one."""
        self._make_parent(path)
        self._fs.pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Put the object if there is none; False if there is one."""
        self._make_parent(path)
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def copy(self, source: str, target: str) -> None:
        """Copy an object on the server."""
        self._make_parent(target)
        self._fs.cp_file(source, target)

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes; None if there is none."""
        try:
            found = self._fs.info(path)
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def names(self, path: str) -> list[str]:
        """Return the names directly below a path, sorted."""
        try:
            found = self._fs.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        root = path.rstrip("/") + "/"
        names = {str(name).rstrip("/").removeprefix(root) for name in found}
        return sorted(name for name in names if name and "/" not in name)

    def sizes(self, path: str) -> dict[str, int]:
        """Return relative path -> bytes of all objects below a path."""
        try:
            found = self._fs.find(path, detail=True)
        except FileNotFoundError:
            return {}
        root = path.rstrip("/") + "/"
        return {
            name.removeprefix(root): int(info["size"] or 0)
            for name, info in sorted(found.items())
            if name.startswith(root) and not name.endswith("/")
        }

    def sync(self, path: str, files: list[str]) -> None:
        """Do nothing: an acknowledged put is durable."""

    def delete(self, path: str) -> None:
        """Delete an object, or all below a path; missing is fine."""
        try:
            self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            return

    def delete_if_empty(self, path: str) -> None:
        """Do nothing: there are no empty folders."""

    def free_bytes(self, path: str) -> None:
        """Return None: a bucket has no end that could be asked for."""

    def _make_parent(self, path: str) -> None:
        # Only file systems with real folders need it; on S3 it would try to make the bucket.
        if not hasattr(self._fs, "split_path"):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
