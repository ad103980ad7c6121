"""Which entries of a folder are images that can be read, and what becomes of the others.

* A file counts as an image by its suffix (`soapworks.images.formats`), in any case.
* A link is followed only to a file inside of the folder, or in the cache to which a Hugging Face
  snapshot belongs (``snapshots/<revision>/x.jpg -> ../../blobs/<digest>``). Links to folders are
  never followed: a folder inside is listed in its own place already, so loops cannot arise.
* *Refused* are all that may be images and are not read: links that lead elsewhere or nowhere, pipes
  and devices, names that cannot be used, and images in other formats (`UNREAD_SUFFIXES`), unless
  the same picture lies beside them in a format that is read (``a.cr2`` and ``a.jpg``). They count
  as unreadable images.
* Files of other suffixes (tables, labels, texts) are counted and reported, but are no images.
* Hidden files and the litter of operating systems (`soapworks.walking`) are only counted.
"""

import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from soapworks.fingerprints import disk_fingerprint
from soapworks.images.formats import IMAGE_SUFFIXES, UNREAD_SUFFIXES, suffix_of
from soapworks.names import printable
from soapworks.walking import Entry

_MOST_SUFFIXES_NAMED = 5
_UNNAMABLE = "its name is not valid UTF-8, or has an empty, . or .. part, or ?versionId=; rename it"
_CACHES = ("datasets--", "models--", "spaces--")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image as a listing sees it, without reading it."""

    path: str
    """Path relative to the folder, POSIX."""
    size: int
    """Bytes."""
    fingerprint: str
    """Cheap identity (`soapworks.walking.Entry`): equal means unread, not proven, equality."""


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """Something with an image's name (or a folder link) that is not read."""

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

    def add(self, entry: Entry, folder: Path, roots: tuple[Path, ...]) -> None:
        """Sort one entry in.

        Parameters
        ----------
        entry
            The entry.
        folder
            The folder that was walked.
        roots
            Folders that links may lead into (`link_roots`).
        """
        suffix = suffix_of(entry.path)
        may_be_image = suffix in IMAGE_SUFFIXES or suffix in UNREAD_SUFFIXES
        place = folder / entry.path
        if entry.kind == "hidden":
            self.n_hidden += 1
        elif not (may_be_image or (entry.kind == "link" and place.is_dir())):
            self.other_suffixes[suffix] += 1
        elif entry.kind == "link":
            self._add_link(entry.path, real_target(place, roots))
        elif entry.kind == "special":
            self._refuse(entry.path, "not a regular file")
        elif entry.kind == "unnamable":
            self._refuse(entry.path, _UNNAMABLE)
        else:
            self._add_file(ImageFile(entry.path, entry.size, entry.fingerprint))

    def _add_link(self, path: str, target: Path | None) -> None:
        if target is None:
            self._refuse(path, "a symbolic link that leads outside of the folder, or nowhere")
            return
        facts = target.stat()
        if stat.S_ISREG(facts.st_mode):
            self._add_file(ImageFile(path, facts.st_size, disk_fingerprint(facts)))
        elif not stat.S_ISDIR(facts.st_mode):
            self._refuse(path, "not a regular file")

    def _add_file(self, file: ImageFile) -> None:
        if suffix_of(file.path) in IMAGE_SUFFIXES:
            self.files.append(file)
        else:
            self._refuse(
                file.path, f"{suffix_of(file.path)} is not read; convert it to PNG or JPEG"
            )

    def _refuse(self, path: str, reason: str) -> None:
        self.refused.append(RefusedEntry(printable(path), reason))

    def finish(self) -> None:
        """Sort by path, code point by code point, and forgive formats that lie there twice."""
        self.files.sort(key=lambda file: file.path)
        read = {printable(file.path.rpartition(".")[0]) for file in self.files}
        twice = {
            entry.path
            for entry in self.refused
            if suffix_of(entry.path) in UNREAD_SUFFIXES and entry.path.rpartition(".")[0] in read
        }
        self.other_suffixes.update(map(suffix_of, twice))
        self.refused = [entry for entry in self.refused if entry.path not in twice]
        self.refused.sort(key=lambda entry: entry.path)

    def describe_others(self) -> str:
        """Return in a few words how many files of other suffixes there are, or ``""``."""
        if not (n_others := self.other_suffixes.total()):
            return ""
        counted = self.other_suffixes.most_common()
        named = [f"{n} {printable(suffix) or 'without suffix'}" for suffix, n in counted]
        if len(named) > _MOST_SUFFIXES_NAMED:
            named[_MOST_SUFFIXES_NAMED:] = ["..."]
        return f"{n_others} other {'file' if n_others == 1 else 'files'} ({', '.join(named)})"

    def describe(self) -> str:
        """Return in one line all that is there beside images that can be read."""
        parts = [self.describe_others()]
        parts += [f"{self.n_hidden} hidden"] * bool(self.n_hidden)
        if self.refused:
            first = self.refused[0]
            parts.append(f"{len(self.refused)} refused (first: {first.path}, {first.reason})")
        return ", ".join(filter(None, parts)) or "the folder is empty"


def link_roots(folder: Path) -> tuple[Path, ...]:
    """Return the folders that links in a folder may lead into, free of links themselves.

    Parameters
    ----------
    folder
        The folder; where it is a Hugging Face snapshot or lies in one, its cache's blobs count too.
    """
    real = folder.resolve()
    for place in (real, *real.parents):
        cache = place.parent.parent
        if place.parent.name == "snapshots" and cache.name.startswith(_CACHES):
            return (real, cache / "blobs")
    return (real,)


def real_target(path: Path, roots: tuple[Path, ...]) -> Path | None:
    """Return where a path really leads, or None when that is nowhere or outside of `roots`.

    Parameters
    ----------
    path
        A path on disk whose parts may be symbolic links.
    roots
        Folders free of symbolic links.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # dangling, or a loop of links
        return None
    return target if any(target.is_relative_to(root) for root in roots) else None
