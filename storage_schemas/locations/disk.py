"""Files on a disk: the atomic steps that stores rest on.

Every write goes to a file aside (``<name>.<hex>.partial``) and is renamed when whole; creating
only if absent is a hard link of such a file, which fails when the name is taken. Symbolic links
inside a store are never followed to data: a store that was handed over cannot make a reader open
files elsewhere.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from soapworks.storage_schemas.layout.names import PARTIAL

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS}
_PIECE = 2**22
_SYNCING = 16


class Disk:
    """The file system of this machine; paths are absolute."""

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return the file's bytes, at most ``limit + 1`` of them when a limit is given."""
        with _open_regular(path) as fd, os.fdopen(fd, "rb", closefd=False) as file:
            return file.read() if limit is None else file.read(limit + 1)

    def digest(self, path: str) -> tuple[int, str]:
        """Return size in bytes and sha256 of the file."""
        digest, size = hashlib.sha256(), 0
        with _open_regular(path) as fd:
            while piece := os.read(fd, _PIECE):
                digest.update(piece)
                size += len(piece)
        return size, digest.hexdigest()

    def write(self, path: str, data: bytes, *, durable: bool, root: str = "") -> None:
        """Write the file whole or not at all, over an older one.

        Durable means: the bytes, and the names of all folders below ``root``, outlast a power cut.
        """
        aside = _write_aside(path, data, durable=durable)
        try:
            Path(aside).replace(path)
        except BaseException:
            _unlink(aside)
            raise
        if durable:
            _sync_folders(_above(path, root))

    def create(self, path: str, data: bytes, *, durable: bool, root: str = "") -> bool:
        """Write the file whole if there is none; False if there is one."""
        aside = _write_aside(path, data, durable=durable)
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(path, data)
        finally:
            _unlink(aside)
        if durable:
            _sync_folders(_above(path, root))
        return True

    def copy(self, source: str, target: str) -> None:
        """Give ``source``'s bytes a second name: a hard link, or a copy where there are none."""
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(target)
        try:
            try:
                os.link(source, aside, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(source, aside, follow_symlinks=False)
            Path(aside).replace(target)
        finally:
            _unlink(aside)  # a rename between two names of one file leaves both

    def size(self, path: str) -> int | None:
        """Return the size of a regular file in bytes; None if there is none."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no folder."""
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sizes(self, path: str) -> dict[str, int]:
        """Return relative path -> bytes of the regular files below a folder, no links followed."""
        found: dict[str, int] = {}
        if Path(path).is_symlink():
            return found
        folders = [""]
        while folders:
            prefix = folders.pop()
            try:
                entries = os.scandir(f"{path}/{prefix}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name + "/")
                    elif entry.is_file(follow_symlinks=False):
                        # A file may be renamed or deleted while the folder is read.
                        with contextlib.suppress(FileNotFoundError):
                            found[name] = entry.stat(follow_symlinks=False).st_size
        return dict(sorted(found.items()))

    def sizes_of(self, path: str, files: Iterable[str]) -> dict[str, int]:
        """Return relative path -> bytes of those of ``files`` that are there, no links followed.

        Faster than :meth:`sizes` where folders are many: each is looked at once.
        """
        real = {path: not Path(path).is_symlink()}

        def is_real(folder: str) -> bool:
            if folder not in real:
                real[folder] = is_real(folder.rpartition("/")[0]) and _is_folder(folder)
            return real[folder]

        found = {}
        for name in files:
            each = f"{path}/{name}"
            if is_real(each.rpartition("/")[0]) and (size := self.size(each)) is not None:
                found[name] = size
        return found

    def sync(self, path: str, files: list[str], root: str = "") -> None:
        """Make files below a folder durable: after a power cut they are there and whole."""
        paths = [f"{path}/{name}" for name in files]
        # Many at once share the file system's journal commits, which are what takes the time.
        with ThreadPoolExecutor(_SYNCING) as threads:
            for _ in threads.map(_sync, paths):
                pass
        _sync_folders({folder for each in paths for folder in _above(each, root or path)})

    def delete(self, path: str) -> None:
        """Delete a file or a folder with all below; missing is fine."""
        for _ in range(5):  # another process may be writing into the folder
            try:
                if Path(path).is_dir() and not Path(path).is_symlink():
                    shutil.rmtree(path)
                else:
                    Path(path).unlink()
            except FileNotFoundError:
                if not os.path.lexists(path):
                    return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
            else:
                return

    def delete_file(self, path: str) -> None:
        """Delete a file; missing is fine."""
        self.delete(path)

    def delete_if_empty(self, path: str) -> None:
        """Delete an empty folder; leave any other."""
        with contextlib.suppress(OSError):
            Path(path).rmdir()

    def free_bytes(self, path: str) -> int:
        """Return the bytes free for an ordinary user where ``path`` is or would be."""
        place = Path(path)
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def _aside(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex}{PARTIAL}"


def _write_aside(path: str, data: bytes, *, durable: bool) -> str:
    aside = _aside(path)
    fd = _open_new(aside)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
    except BaseException:
        _unlink(aside)
        raise
    return aside


def _open_new(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    for _ in range(20):  # the folder may be deleted by another process between the two calls
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, flags, 0o666)


def _create_without_links(path: str, data: bytes) -> bool:
    """Create on file systems without hard links.

    A reader may see the file while it is written and then finds it unreadable, not wrong; nobody
    acts on that while its writer holds the lease.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException:
        _unlink(path)
        raise
    return True


@contextlib.contextmanager
def _open(path: str) -> Iterator[int]:
    # Non-blocking, so that a named pipe put in a file's place cannot stop us.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _open_regular(path: str) -> Iterator[int]:
    with _open(path) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        yield fd


def refuse_links(root: str, path: str) -> None:
    """Raise OSError (ELOOP) if a folder below ``root`` on the way to ``path`` is a link."""
    place = root.rstrip("/")
    for part in path.removeprefix(place).strip("/").split("/"):
        place = f"{place}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(place).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)
        except (FileNotFoundError, NotADirectoryError):
            return


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sync(path: str) -> None:
    with _open(path) as fd:
        os.fsync(fd)


def _above(path: str, root: str) -> list[str]:
    """Return the folders whose names a path needs: those up to ``root``, and the one it lies in."""
    folders = [path.rpartition("/")[0]]
    while root and folders[-1].startswith(root):
        folders.append(folders[-1].rpartition("/")[0])
    return folders


def _sync_folders(folders: Collection[str]) -> None:
    """Make the names in folders durable: those of files, and those of the folders between."""
    with ThreadPoolExecutor(min(_SYNCING, len(folders) or 1)) as threads:
        for _ in threads.map(_sync_folder, folders):
            pass


def _sync_folder(folder: str) -> None:
    # Some network file systems cannot sync a folder; a rename is atomic there all the same.
    with contextlib.suppress(OSError):
        _sync(folder)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()
