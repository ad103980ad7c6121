"""Folders of photographs, by path or URL: what is in them, a fair sample of it, and their bytes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soapworks.errors import ImageError, InputError
from soapworks.images.formats import IMAGE_SUFFIXES
from soapworks.images.walking import (
    Findings,
    ImageFile,
    RefusedEntry,
    real_target,
    walk_disk,
    walk_remote,
)
from soapworks.remote import file_system, in_short

__all__ = [
    "MAX_FILE_BYTES",
    "Findings",
    "ImageFile",
    "ImageFolder",
    "RefusedEntry",
    "list_images",
    "open_folder",
    "sample_images",
]

MAX_FILE_BYTES = 2**30
"""Bytes above which a file is not read at all: 1 GiB."""

_LOCAL_PROTOCOLS = ("file://", "local://")
_MOST_SUFFIXES_NAMED = 5


@dataclass(frozen=True)
class ImageFolder:
    """A folder of photographs on disk or behind a URL; picklable, holds nothing open.

    Made by `open_folder`.
    """

    url: str
    """Absolute path on disk, or the URL without a slash at its end."""

    def survey(self) -> Findings:
        """Walk the folder and return everything found, photographs, refusals and the rest.

        Returns
        -------
        Findings
            Sorted by path. May hold no photograph at all.

        Raises
        ------
        InputError
            There is no such folder, it is a file, or it cannot be listed.
        """
        return self._survey_disk() if _is_on_disk(self.url) else self._survey_remote()

    def list(self) -> "list[ImageFile]":
        """Return the photographs in it, any depth, sorted by path (code points).

        Raises
        ------
        InputError
            As `survey`, and when there is not one photograph; says what is there instead.
        """
        found = self.survey()
        if not found.files:
            raise InputError(_nothing_found(self.url, found))
        return found.files

    def read(self, path: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return one file's bytes.

        Parameters
        ----------
        path
            Relative path as in a listing.
        max_bytes
            Longest file that is read, in bytes.

        Raises
        ------
        InputError
            The path leads out of the folder, by its parts or by a symbolic link.
        ImageError
            The file is gone, not readable, not a regular file, or longer than `max_bytes`.
        """
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise InputError(f"{path!r} is no path inside of {self.url}; use paths as listed")
        try:
            on_disk = _is_on_disk(self.url)
            data = (self._read_disk if on_disk else self._read_remote)(path, max_bytes)
        except (ImageError, InputError):
            raise
        except FileNotFoundError as error:
            raise ImageError("file is no longer there") from error
        except Exception as error:  # remote file systems raise their own libraries' exceptions
            raise ImageError(f"file cannot be read: {in_short(error)}") from error
        if len(data) > max_bytes:
            raise ImageError(f"file is longer than the limit of {max_bytes} bytes")
        return data

    def _survey_disk(self) -> Findings:
        root = Path(self.url)
        if root.is_file():
            raise InputError(_is_a_file(self.url))
        try:
            return walk_disk(root)
        except FileNotFoundError as error:
            raise InputError(_is_missing(self.url)) from error
        except OSError as error:
            where = error.filename or self.url
            raise InputError(
                f"{where} cannot be listed ({in_short(error)}); check its permissions"
            ) from error

    def _survey_remote(self) -> Findings:
        try:
            system, root = file_system(self.url)
            system.invalidate_cache()
            listing = system.find(root, detail=True)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(_is_missing(self.url)) from error
        except Exception as error:  # remote file systems raise their own libraries' exceptions
            raise InputError(
                f"{self.url} cannot be listed ({in_short(error)}); "
                "check the address, the network and the credentials"
            ) from error
        if root in listing:
            raise InputError(_is_a_file(self.url))
        if not listing:
            raise InputError(_is_missing(self.url))
        return walk_remote(root, listing)

    def _read_disk(self, path: str, max_bytes: int) -> bytes:
        root = Path(self.url)
        place = root / path
        if not os.path.lexists(place):
            raise FileNotFoundError(path)
        target = real_target(place, root.resolve())
        if target is None:
            raise InputError(f"{path!r} leads out of {self.url} through a symbolic link")
        if not target.is_file():  # a pipe would block for ever
            raise ImageError("not a regular file")
        with target.open("rb") as file:
            return file.read(max_bytes + 1)

    def _read_remote(self, path: str, max_bytes: int) -> bytes:
        system, root = file_system(self.url)
        place = f"{root}/{path}"
        # One ranged request. Opening a file would trust sizes and ETags of an earlier listing.
        try:
            return bytes(system.cat_file(place, start=0, end=max_bytes + 1))
        except FileNotFoundError:
            raise
        except OSError:
            system.invalidate_cache()
            if system.size(place) == 0:  # of an empty object no range can be had
                return b""
            raise


def open_folder(url: str | Path) -> ImageFolder:
    """Name a folder of photographs; nothing is read yet.

    Parameters
    ----------
    url
        A path on disk (``~`` is expanded), or a URL that fsspec knows: ``file://``,
        ``s3://bucket/prefix``, ``memory://``...
    """
    text = os.fspath(url)
    if isinstance(url, str):
        for protocol in _LOCAL_PROTOCOLS:
            text = text.removeprefix(protocol)
    if not text:
        raise InputError("the folder of photographs has an empty name; name a folder or a URL")
    if isinstance(url, str) and not _is_on_disk(text):
        return ImageFolder(text.rstrip("/") if not text.endswith("://") else text)
    return ImageFolder(str(Path(text).expanduser().absolute()))


def list_images(url: str | Path) -> list[ImageFile]:
    """List the photographs below a folder or URL, any depth.

    Suffixes count in any case; hidden files and folders are left out; symbolic links are followed
    only to files inside of the folder (all rules: `soapworks.images.walking`).

    Parameters
    ----------
    url
        As in `open_folder`.

    Returns
    -------
    list of ImageFile
        Sorted by relative path, code point by code point, whatever the locale.

    Raises
    ------
    InputError
        No such folder, a file instead of a folder, or no photograph in it.
    """
    return open_folder(url).list()


def sample_images(files: Sequence[ImageFile], max_images: int | None, seed: int) -> list[ImageFile]:
    """Take a seeded sample that hardly changes when the folder grows.

    Every file has a rank of its own, the sha256 of ``"<seed>:<path>"``, and the `max_images`
    lowest are taken. So the sample depends on neither the order nor the number of the files, a
    larger sample contains a smaller one, and each file that is added can push out at most one
    other, only by being sampled itself.

    Parameters
    ----------
    files
        The listing.
    max_images
        Size of the sample; None takes all.
    seed
        Another seed draws another sample.

    Returns
    -------
    list of ImageFile
        Sorted by path.

    Raises
    ------
    InputError
        `max_images` is below 1.
    """
    if max_images is not None and max_images < 1:
        raise InputError(f"max_images is {max_images}, but at least 1 image is needed")
    if max_images is None or max_images >= len(files):
        chosen = list(files)
    else:
        chosen = sorted(files, key=lambda file: _rank(file.path, seed))[:max_images]
    return sorted(chosen, key=lambda file: file.path)


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{path}".encode()).digest()


def _is_on_disk(url: str) -> bool:
    return "://" not in url and "::" not in url


def _is_missing(url: str) -> str:
    return f"there is no folder {url}, or nothing is in it; name a folder of photographs"


def _is_a_file(url: str) -> str:
    return f"{url} is a file, not a folder; name the folder that holds the photographs"


def _nothing_found(url: str, found: Findings) -> str:
    n_others = found.other_suffixes.total()
    if not n_others:
        others = "the folder is empty" if not found.refused else "there are no other files"
    else:
        counted = found.other_suffixes.most_common()
        named = [f"{n} {suffix or 'without suffix'}" for suffix, n in counted]
        if len(named) > _MOST_SUFFIXES_NAMED:
            named[_MOST_SUFFIXES_NAMED:] = ["..."]
        others = f"there {'is' if n_others == 1 else 'are'} {n_others} other ({', '.join(named)})"
    for n, what in ((found.n_hidden, "hidden"), (len(found.refused), "refused")):
        others += f", {n} {what}" if n else ""
    if found.refused:
        others += f" (first: {found.refused[0].path}, {found.refused[0].reason})"
    looked_for = " ".join(sorted(IMAGE_SUFFIXES))
    return (
        f"no photograph in {url}: looked for {looked_for} at any depth, {others}; "
        "name a folder that holds photographs"
    )
