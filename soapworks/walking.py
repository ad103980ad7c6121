"""Walk a folder, on disk or behind a URL, without reading a file in it.

The rules are the same everywhere: paths are relative to the folder, with ``/`` between parts; names
that start with a dot and the litter of operating systems (``Thumbs.db``, ``__MACOSX``, ``@eaDir``,
``lost+found``) are hidden, and hidden folders are not entered; links are reported, never followed.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soapworks.fingerprints import disk_fingerprint, remote_fingerprint
from soapworks.remote import file_system, is_url

_LITTER = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle"),
        *("$recycle.bin", "system volume information", "lost+found"),
    )
)

_VERSION = "?versionId="  # s3fs reads it as the number of a version, wherever it stands in a key


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a link or something unusable in a folder."""

    path: str
    """Path relative to the folder, POSIX."""
    kind: Literal["file", "link", "hidden", "special", "unnamable"]
    """``special``: a pipe, a socket or a device. ``unnamable``: no valid UTF-8 (disk), or a key
    with empty, ``.`` or ``..`` parts or ``?versionId=`` (object stores)."""
    size: int = 0
    """Bytes, of a file."""
    fingerprint: str = ""
    """Cheap identity of a file that changes whenever its content may have: on disk
    ``size:mtime_ns:ctime_ns:inode``, remote the size and the object's ETag or dates."""


def walk(url: str) -> Iterator[Entry]:
    """Yield everything below a folder except folders, in no particular order.

    Files and folders that vanish meanwhile are left out.

    Parameters
    ----------
    url
        A path on disk, or a URL that fsspec knows.

    Raises
    ------
    FileNotFoundError
        There is no such folder. Object stores know no empty folders and yield nothing instead.
    NotADirectoryError
        It is a file.
    Exception
        The folder, or one below it, cannot be listed. Disks raise OSError with the file name;
        remote file systems raise their own libraries' exceptions.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = Path(folder.name, "a.png").write_bytes(b"four")
    >>> [(entry.path, entry.kind, entry.size) for entry in walk(folder.name)]
    [('a.png', 'file', 4)]
    >>> folder.cleanup()
    """
    return _walk_remote(url) if is_url(url) else _walk_disk(url)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is left out by its name alone.

    Examples
    --------
    >>> [is_hidden(name) for name in (".git", "Thumbs.db", "a.png")]
    [True, True, False]
    """
    return name.startswith(".") or name.lower() in _LITTER


def is_utf8(text: str) -> bool:
    """Return whether a name from the file system is valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk_disk(root: str) -> Iterator[Entry]:
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            entries = os.scandir(Path(root, prefix))
        except FileNotFoundError:
            if prefix:
                continue
            raise
        with entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False) and not is_hidden(entry.name):
                    folders.append(f"{path}/")
                elif found := _disk_entry(entry, path):
                    yield found


def _disk_entry(entry: os.DirEntry[str], path: str) -> Entry | None:
    if is_hidden(entry.name):
        return Entry(path, "hidden")
    if not is_utf8(path):
        return Entry(path, "unnamable")
    if entry.is_symlink():
        return Entry(path, "link")
    try:
        facts = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        return Entry(path, "special")
    return Entry(path, "file", facts.st_size, disk_fingerprint(facts))


def _walk_remote(url: str) -> Iterator[Entry]:
    system, root = file_system(url)
    system.invalidate_cache()
    listing: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
    if root in listing:
        raise NotADirectoryError(url)
    for name, facts in listing.items():
        path = name.removeprefix(f"{root}/")
        parts = path.split("/")
        if path.endswith("/"):  # an object store's marker of an empty folder
            continue
        if any(part in ("", ".", "..") for part in parts) or _VERSION in path:
            yield Entry(path, "unnamable")
        elif any(map(is_hidden, parts)):
            yield Entry(path, "hidden")
        else:
            size = int(facts.get("size") or 0)
            yield Entry(path, "file", size, remote_fingerprint(size, facts))
