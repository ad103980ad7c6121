"""What lies under a folder, on disk or behind a URL: photographs, refusals and the rest.

Rules, the same for both:

* Names that start with a dot are hidden: they and everything below them are left out.
* A file counts as a photograph by its suffix (`soapworks.images.formats`), in any case.
* Paths are relative to the folder, with ``/`` between parts.

On disk a symbolic link to a file is followed only if the file lies inside of the folder; one that
leads outside or nowhere is refused. Links to folders are never followed: a folder inside is listed
in its own place already (so loops cannot arise), a folder outside is refused. Names that are not
UTF-8 and files that are not regular (pipes, devices) are refused too.
"""

import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soapworks.images.formats import IMAGE_SUFFIXES, suffix_of
from soapworks.remote import version_of


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One photograph as a listing sees it, without reading it."""

    path: str
    """Path relative to the folder, POSIX."""
    size: int
    """Bytes."""
    fingerprint: str
    """Cheap identity that changes whenever the content may have: on disk
    ``size:mtime_ns:ctime_ns:inode``, remote the size and what the server says of the object
    (ETag, time of modification). Equal fingerprints mean unread, not proven, equality."""


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """Something with a photograph's name (or a folder link) that is not read."""

    path: str
    """Path relative to the folder, POSIX, printable."""
    reason: str
    """A few words."""


@dataclass(slots=True)
class Findings:
    """Everything a walk came across."""

    files: list[ImageFile] = field(default_factory=list)
    refused: list[RefusedEntry] = field(default_factory=list)
    other_suffixes: Counter[str] = field(default_factory=Counter)
    """Number of visible files of every other suffix (lower case, ``""`` for none)."""
    n_hidden: int = 0
    """Hidden files and folders that were left out (remote: files only)."""

    def refuse(self, path: str, reason: str) -> None:
        """Note an entry that is not read, under a name that any log can print."""
        self.refused.append(RefusedEntry(path.encode(errors="backslashreplace").decode(), reason))

    def sort(self) -> None:
        """Sort by path, code point by code point: the same in every locale and on every disk."""
        self.files.sort(key=lambda file: file.path)
        self.refused.sort(key=lambda entry: entry.path)


def walk_disk(root: Path) -> Findings:
    """Walk a folder on disk.

    Parameters
    ----------
    root
        The folder; it may itself be a symbolic link.

    Returns
    -------
    Findings
        Sorted.

    Raises
    ------
    OSError
        The folder, or one below it, cannot be listed.
    """
    found = Findings()
    real_root = root.resolve()
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.name.startswith("."):
                    found.n_hidden += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((f"{path}/", folder / entry.name))
                else:
                    _note_disk_entry(found, entry, path, real_root)
    found.sort()
    return found


def _note_disk_entry(found: Findings, entry: os.DirEntry[str], path: str, real_root: Path) -> None:
    is_link = entry.is_symlink()
    if suffix_of(path) not in IMAGE_SUFFIXES and not (is_link and entry.is_dir()):
        found.other_suffixes[suffix_of(path)] += 1
        return
    if not _is_utf8(path):
        found.refuse(path, "its name is not valid UTF-8")
        return
    if is_link:
        target = real_target(Path(entry.path), real_root)
        if target is None:
            found.refuse(path, "a symbolic link that leads outside of the folder, or nowhere")
            return
        if target.is_dir():
            return
    try:
        facts = entry.stat()
    except FileNotFoundError:  # deleted since the folder was read
        return
    if not stat.S_ISREG(facts.st_mode):
        found.refuse(path, "not a regular file")
        return
    marks = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    found.files.append(ImageFile(path, facts.st_size, ":".join(map(str, marks))))


def real_target(path: Path, real_root: Path) -> Path | None:
    """Return where a path really leads, or None when that is outside of the folder or nowhere.

    Parameters
    ----------
    path
        A path on disk whose parts may be symbolic links.
    real_root
        The folder, free of symbolic links.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # dangling, or a loop of links
        return None
    return target if target.is_relative_to(real_root) else None


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def walk_remote(root: str, listing: Mapping[str, Mapping[str, Any]]) -> Findings:
    """Sort out what a remote file system lists below a folder.

    Parameters
    ----------
    root
        The folder's path in the file system's own form, without a slash at its end.
    listing
        Absolute path to facts, as fsspec's ``find(root, detail=True)`` returns them.

    Returns
    -------
    Findings
        Sorted. Keys with empty, ``.`` or ``..`` parts, which object stores allow and disks do
        not, are refused.
    """
    found = Findings()
    for absolute, facts in listing.items():
        path = absolute.removeprefix(f"{root}/")
        parts = path.split("/")
        if path.endswith("/"):  # an object store's marker of an empty folder
            continue
        if any(part in ("", ".", "..") for part in parts):
            found.refuse(path, "its key has an empty, . or .. part")
        elif any(part.startswith(".") for part in parts):
            found.n_hidden += 1
        elif suffix_of(path) not in IMAGE_SUFFIXES:
            found.other_suffixes[suffix_of(path)] += 1
        else:
            size = int(facts.get("size") or 0)
            found.files.append(ImageFile(path, size, remote_fingerprint(size, facts)))
    found.sort()
    return found


def remote_fingerprint(size: int, facts: Mapping[str, Any]) -> str:
    """Return the cheap identity of an object from what its server says of it."""
    return ":".join(filter(None, (str(size), version_of(facts))))
