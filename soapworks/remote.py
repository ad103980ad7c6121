"""Files behind URLs, by fsspec: facts, listings, and copies kept on this machine.

A copy is named after what the storage said of the file when it was fetched, so a file that was
changed since is fetched anew, and one that was not is not.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soapworks.downloads import download
from soapworks.errors import InputError
from soapworks.fingerprints import disk_marks, remote_version

OPTIONS: dict[str, Any] = {"use_listings_cache": False}
"""Of every file system: cached listings would hide what other processes do."""

_S3FS_TRIES = 2
_STALE_SECONDS = 24 * 3600.0
_PART = ".part"


class RemoteError(Exception):
    """A URL that cannot be used or read; the message is the reason alone."""


def is_url(text: str) -> bool:
    """Return whether an address is a URL, not a path on this machine.

    Examples
    --------
    >>> is_url("s3://bucket/model.pth"), is_url("runs/model.pth")
    (True, False)
    """
    return "://" in text


def check_url(url: str) -> None:
    """Refuse URLs with a password, with ``..``, or that chain file systems.

    Raises
    ------
    InputError
        The message never repeats the password.

    Examples
    --------
    >>> check_url("s3://bucket/runs/model.pth")
    """
    protocol, _, rest = url.partition("://")
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise InputError(
            f"the {protocol}:// address holds a password: put credentials into the usual settings "
            "(for S3: AWS_ACCESS_KEY_ID, AWS_PROFILE) instead"
        )
    if "::" in url or ".." in rest.split("/") or "\0" in url:
        raise InputError(f"{url!r} is refused: give a plain address without '::' or '..'")


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Raises
    ------
    InputError
        If the URL is refused, see :func:`check_url`.
    RemoteError
        If the protocol is unknown or its driver is not installed.
    """
    check_url(url)
    protocol = url.partition("://")[0]
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, **OPTIONS)
    except (ImportError, ValueError) as error:
        raise RemoteError(f"addresses that start with {protocol}:// cannot be used: {error}") from (
            error
        )
    return set_up(system), str(path).rstrip("/")


def set_up(fs: Any) -> Any:
    """Set a file system up before its first request, and return it.

    s3fs must not repeat requests that botocore has repeated already. Left alone it does so five
    times, and five times those where it reads: at 15 seconds per unanswered request that is half an
    hour before a silent server is reported. Twice is for answers that break off in their middle,
    which botocore does not repeat.

    botocore must not compare a piece of an object with the checksum of the whole, which some
    servers send along; what is stored has checksums of its own.
    """
    if "s3" in fs.protocol:
        fs.retries = _S3FS_TRIES
        fs.config_kwargs.setdefault("response_checksum_validation", "when_required")
    return fs


def facts_of(address: str) -> list[Any] | None:
    """Return the fingerprint of a file as a list; None where there is no such file.

    Returns
    -------
    list
        [URL, bytes, version]; for a path [path, bytes, mtime and ctime in ns, inode].

    Raises
    ------
    RemoteError
        If the storage cannot be reached.

    Examples
    --------
    >>> facts_of("no/such/file.pth") is None
    True
    """
    if not is_url(address):
        try:
            return [address, *disk_marks(Path(address).stat())]
        except OSError:
            return None
    with translate_errors():
        system, path = file_system(address)
        try:
            facts = system.info(path)
        except FileNotFoundError:
            return None
        if facts.get("type") != "file":
            return None
        return [address, int(facts.get("size") or 0), remote_version(facts)]


def names_in(url: str) -> list[str]:
    """Return the names of the files directly in a folder, sorted; none where there is no such.

    Raises
    ------
    RemoteError
        Where the storage cannot be asked.
    """
    with translate_errors():
        system, path = file_system(url)
        try:
            found = system.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(
            name
            for facts in found
            if facts.get("type") == "file"
            and (name := str(facts["name"]).rstrip("/").removeprefix(f"{path}/"))
            and "/" not in name
        )


copy_listeners: list[Callable[[int], None]] = []
"""Called with the number of bytes copied since the last call, from any thread."""


def _copy_callback() -> Any:
    from fsspec.callbacks import Callback

    class Copying(Callback):
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            for listener in copy_listeners:
                listener(inc)

    return Copying()


def local_copy(url: str) -> Path:
    """Return a copy of a file on this machine, fetched where it is not there yet.

    Copies lie in ``$SOAPWORKS_HOME/checkpoints``, by default ``~/.cache/soapworks/checkpoints``;
    one version of a URL is kept.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    RemoteError
        Where the storage cannot be read, or the file is changed while it is fetched.
    OSError
        Where the copy cannot be written.
    """
    facts = facts_of(url)
    if facts is None:
        raise FileNotFoundError(url)
    folder = _folder_of(url)
    version = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    copy = folder / f"{version}-{url.rstrip('/').rpartition('/')[2]}"
    if copy.is_file() and facts[1] in (0, copy.stat().st_size):
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{uuid.uuid4().hex}{_PART}"
    try:
        with translate_errors():
            system, path = file_system(url)
            callback = _copy_callback()
            if url.startswith(("http://", "https://")):
                download(url, part, advance=callback.relative_update)
            else:
                system.get_file(path, str(part), callback=callback)
        # A web server need not announce a length.
        if facts[1] not in (0, part.stat().st_size) or facts_of(url) != facts:
            raise RemoteError("it was changed while it was read; start again once it is complete")
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)
    _drop_others(folder, copy)
    return copy


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turn whatever a file system raises into a `RemoteError`; absence and refusals pass."""
    try:
        yield
    except (RemoteError, InputError, FileNotFoundError):
        raise
    except Exception as error:  # file systems raise their own libraries' exceptions
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # of this machine's disk
        raise RemoteError(in_short(error)) from error


def drop_copy(url: str) -> None:
    """Delete the copy of a file from this machine, if there is one.

    For who needs it once: whoever needs it again fetches it again, and who has it open keeps it.
    """
    shutil.rmtree(_folder_of(url), ignore_errors=True)


def in_short(error: BaseException) -> str:
    """Return the reason that an error of a file system gives, in one line."""
    if isinstance(error, PermissionError):  # what a server says may name keys
        return "Permission denied"
    kind = type(error).__name__
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        )
    if kind == "EndpointConnectionError":
        asked = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
        return f"nothing answers at {asked.scheme}://{asked.netloc}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:160].rstrip(" .") or kind


def home_folder() -> Path:
    """Return the folder for what later runs may use again: ``$SOAPWORKS_HOME``, or a cache."""
    return Path(os.environ.get("SOAPWORKS_HOME") or "~/.cache/soapworks").expanduser()


def _folder_of(url: str) -> Path:
    return home_folder() / "checkpoints" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _drop_others(folder: Path, kept: Path) -> None:
    """Delete older versions, and parts of downloads that nobody goes on with."""
    for other in folder.iterdir():
        if other == kept:
            continue
        with contextlib.suppress(OSError):
            if other.suffix != _PART or time.time() - other.stat().st_mtime > _STALE_SECONDS:
                other.unlink()
