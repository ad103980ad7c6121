"""Which entries of a folder are images that can be read, and what becomes of the others.

A file counts as an image by its suffix (`soapworks.images.formats`), in any case. A link is
followed only to a file inside of the folder; one that leads outside or nowhere is refused. Links to
folders are never followed: a folder inside is listed in its own place already (so loops cannot
arise), a folder outside is refused. Names that are not UTF-8 and files that are not regular (pipes,
devices) are refused too.
"""

import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from soapworks.fingerprints import disk_fingerprint
from soapworks.images.formats import IMAGE_SUFFIXES, suffix_of
from soapworks.walking import Entry

_MOST_SUFFIXES_NAMED = 5


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

    def add(self, entry: Entry, root: Path) -> None:
        """Sort one entry of the folder `root` in."""
        is_image = suffix_of(entry.path) in IMAGE_SUFFIXES
        if entry.kind == "link":
            self._add_link(entry.path, root, is_image=is_image)
        elif entry.kind == "hidden":
            self.n_hidden += 1
        elif not is_image:
            self.other_suffixes[suffix_of(entry.path)] += 1
        elif entry.kind == "file":
            self.files.append(ImageFile(entry.path, entry.size, entry.fingerprint))
        elif entry.kind == "special":
            self._refuse(entry.path, "not a regular file")
        else:
            self._refuse(entry.path, "its name is not valid UTF-8, or has an empty, . or .. part")

    def _add_link(self, path: str, root: Path, *, is_image: bool) -> None:
        if not is_image and not (root / path).is_dir():
            self.other_suffixes[suffix_of(path)] += 1
            return
        target = real_target(root / path, root)
        if target is None:
            self._refuse(path, "a symbolic link that leads outside of the folder, or nowhere")
            return
        facts = target.stat()
        if stat.S_ISREG(facts.st_mode):
            self.files.append(ImageFile(path, facts.st_size, disk_fingerprint(facts)))
        elif not stat.S_ISDIR(facts.st_mode):
            self._refuse(path, "not a regular file")

    def _refuse(self, path: str, reason: str) -> None:
        self.refused.append(RefusedEntry(path.encode(errors="backslashreplace").decode(), reason))

    def sort(self) -> None:
        """Sort by path, code point by code point: the same in every locale and on every disk."""
        self.files.sort(key=lambda file: file.path)
        self.refused.sort(key=lambda entry: entry.path)

    def describe_others(self) -> str:
        """Return in a few words what lies there beside images."""
        if n_others := self.other_suffixes.total():
            counted = self.other_suffixes.most_common()
            named = [f"{n} {suffix or 'without suffix'}" for suffix, n in counted]
            if len(named) > _MOST_SUFFIXES_NAMED:
                named[_MOST_SUFFIXES_NAMED:] = ["..."]
            others = (
                f"there {'is' if n_others == 1 else 'are'} {n_others} other ({', '.join(named)})"
            )
        else:
            others = "the folder is empty" if not self.refused else "there are no other files"
        for n, what in ((self.n_hidden, "hidden"), (len(self.refused), "refused")):
            others += f", {n} {what}" if n else ""
        if self.refused:
            others += f" (first: {self.refused[0].path}, {self.refused[0].reason})"
        return others


def real_target(path: Path, root: Path) -> Path | None:
    """Return where a path really leads, or None when that is outside of the folder or nowhere.

    Parameters
    ----------
    path
        A path on disk whose parts may be symbolic links.
    root
        The folder.
    """
    try:
        target = path.resolve(strict=True)
        real_root = root.resolve(strict=True)
    except (OSError, RuntimeError):  # dangling, or a loop of links
        return None
    return target if target.is_relative_to(real_root) else None
