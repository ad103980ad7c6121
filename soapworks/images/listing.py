"""Folders of images, by path or URL: their files, a fair sample of them, and their bytes."""

import errno
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soapworks.errors import ImageError, InputError, UnreachableError
from soapworks.images.findings import Findings, ImageFile, link_roots, real_target
from soapworks.images.formats import IMAGE_SUFFIXES
from soapworks.names import printable
from soapworks.remote import file_system, in_short, is_url
from soapworks.walking import is_utf8, walk

MAX_FILE_BYTES = 2**30
"""Bytes above which a file is not read at all: 1 GiB."""

_LOCAL_PROTOCOLS = ("file://", "local://")
_FAULTS_OF_A_FILE = (
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    errno.EIO,  # a bad sector; file systems behind URLs use it for any failure of theirs
)
_EXPIRED = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed")


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images on disk or behind a URL; picklable, holds nothing open.

    Made by `open_folder`.
    """

    url: str
    """Absolute path on disk, or the URL without a slash at its end."""

    def survey(self) -> Findings:
        """Walk the folder and sort out its entries.

        Returns
        -------
        Findings
            Sorted by path, with at least one image.

        Raises
        ------
        InputError
            There is no such folder, it is a file, it or a folder in it cannot be listed, or there
            is no image in it; the message names what is there instead.
        """
        found, folder = Findings(), Path(self.url)
        roots = () if is_url(self.url) else link_roots(folder)
        try:
            for entry in walk(self.url):
                found.add(entry, folder, roots)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(_is_missing(self.url)) from error
        except NotADirectoryError as error:
            raise InputError(
                f"{self.url} is a file, not a folder; name the folder that holds the images"
            ) from error
        except Exception as error:  # remote file systems raise their own libraries' exceptions
            where, cure = self.url, "the address, the network and the credentials"
            if not is_url(self.url):
                where, cure = getattr(error, "filename", None) or self.url, "its permissions"
            raise InputError(
                f"{printable(str(where))} cannot be listed ({in_short(error)}); check {cure}"
            ) from error
        if is_url(self.url) and found == Findings():
            raise InputError(_is_missing(self.url))
        found.finish()
        if not found.files:
            raise InputError(
                f"no image in {self.url}: looked for {' '.join(sorted(IMAGE_SUFFIXES))} at any "
                f"depth and found {found.describe()}; name a folder that holds images"
            )
        return found

    def list(self) -> "list[ImageFile]":
        """Return the images, at any depth, sorted by path; raise what `survey` raises."""
        return self.survey().files

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
            The fault is the file's own: it is gone, must not be read, is not a regular file, lies
            on a bad sector, or is longer than `max_bytes`. The message is the reason alone.
        UnreachableError
            The storage cannot be reached; the message names the file.
        """
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise InputError(f"{path!r} is no path inside of {self.url}; use paths as listed")
        try:
            data = (self._read_remote if is_url(self.url) else self._read_disk)(path, max_bytes)
        except (ImageError, InputError):
            raise
        except FileNotFoundError as error:
            raise ImageError("file is no longer there") from error
        except Exception as error:  # remote file systems raise their own libraries' exceptions
            if _is_fault_of_file(error, self.url):
                raise ImageError(f"file cannot be read: {in_short(error)}") from error
            raise UnreachableError(
                f"{printable(path)} in {self.url} cannot be read: {in_short(error)}; check that "
                "the storage can be reached, then start again"
            ) from error
        if len(data) > max_bytes:
            raise ImageError(_is_too_long(max_bytes))
        return data

    def _read_disk(self, path: str, max_bytes: int) -> bytes:
        place = Path(self.url, path)
        if not os.path.lexists(place):
            raise FileNotFoundError(path)
        target = real_target(place, link_roots(Path(self.url)))
        if target is None:
            raise InputError(f"{path!r} leads out of {self.url} through a symbolic link")
        if not target.is_file():  # a pipe would block for ever
            raise ImageError("not a regular file")
        if target.stat().st_size > max_bytes:
            raise ImageError(_is_too_long(max_bytes))
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
    """Name a folder of images; nothing is read yet.

    Parameters
    ----------
    url
        A path on disk (``~`` is expanded), or a URL that fsspec knows: ``file://``,
        ``s3://bucket/prefix``, ``memory://``...

    Raises
    ------
    InputError
        An empty name, or one that is not valid UTF-8.

    Examples
    --------
    >>> open_folder("s3://bucket/train/").url
    's3://bucket/train'
    """
    text = os.fspath(url)
    if isinstance(url, str):
        for protocol in _LOCAL_PROTOCOLS:
            text = text.removeprefix(protocol)
    if not text:
        raise InputError("the folder of images has an empty name; name a folder or a URL")
    if not is_utf8(text):
        raise InputError(
            f"the name of the folder of images, {printable(text)}, is not valid UTF-8; rename it"
        )
    if isinstance(url, str) and is_url(text):
        return ImageFolder(text.rstrip("/") if not text.endswith("://") else text)
    return ImageFolder(str(Path(text).expanduser().absolute()))


def sample_images(files: Sequence[ImageFile], max_images: int | None, seed: int) -> list[ImageFile]:
    """Draw a seeded sample that hardly changes when the folder grows.

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

    Examples
    --------
    >>> files = [ImageFile(f"{number}.png", 1, "") for number in range(100)]
    >>> [file.path for file in sample_images(files, 3, seed=0)]
    ['26.png', '40.png', '42.png']
    """
    if max_images is not None and max_images < 1:
        raise InputError(f"max_images is {max_images}, but at least 1 image is needed")
    if max_images is not None and max_images < len(files):
        files = sorted(files, key=lambda file: _rank(file.path, seed))[:max_images]
    return sorted(files, key=lambda file: file.path)


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{path}".encode()).digest()


def _is_fault_of_file(error: Exception, url: str) -> bool:
    """Return whether an error is one file's own, so that others may still be read."""
    if is_url(url):
        answer = getattr(error.__cause__, "response", None) or {}
        code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
        return isinstance(error, PermissionError) and code not in _EXPIRED
    return isinstance(error, OSError) and error.errno in _FAULTS_OF_A_FILE


def _is_too_long(max_bytes: int) -> str:
    return f"file is longer than the limit of {max_bytes} bytes"


def _is_missing(url: str) -> str:
    return f"there is no folder {url}, or nothing is in it; name a folder of images"
