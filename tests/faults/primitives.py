"""The steps by which a process changes its store, counted, and a fault at one of them.

Python tells of every change to the file system before it is made (``sys.addaudithook``), and what
is raised there is raised in its place. Bytes written and syncs are not told of, so those two are
wrapped. That way every step of the store's protocol is met, in our code and in zarr's.
"""

import errno
import fnmatch
import io
import os
import random
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ONE_PATH = {"os.remove": "unlink", "os.rmdir": "rmdir", "os.mkdir": "mkdir"}
_TWO_PATHS = {"os.rename": "rename", "os.link": "link"}

FULL = ("open", "write", "mkdir", "link", "sync")
"""Steps that a full disk refuses."""
CHANGES = ("open", "write", "mkdir", "link", "rename", "unlink", "rmdir", "sync")
"""Steps that a read-only or broken disk refuses."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when."""

    kind: str
    """kill; power: kill, and lose bytes and names that were not synced; stop; full, readonly: from
    then on; broken: EIO once; trace: nothing, the steps are written down."""
    at: int = 1
    """Number of the step, counted among those that match, from 1."""
    step: str = "*"
    """Pattern of the step's name: open, write, rename, link, unlink, mkdir, rmdir, sync."""
    path: str = "*"
    """Pattern of its path, relative to the store."""
    seed: int = 0
    """Chooses how much of a torn write arrives, and what a power cut takes."""


_RANDOM = re.compile(r"attempt-[0-9a-f]{12}|(?<=\.)[0-9a-f]{32}(?=\.partial)")


def plain(path: str) -> str:
    """Return a path with ``*`` for the names that are random."""
    return _RANDOM.sub("*", path)


class Interference:
    """Counts steps below a folder and does its worst at one of them.

    Parameters
    ----------
    root
        The store's folder.
    fault
        What goes wrong.
    folder
        Where it is written down that the fault came, and for a trace all steps.
    """

    def __init__(self, root: str, fault: Fault, folder: Path) -> None:
        self._root, self._fault = root.rstrip("/") + "/", fault
        self._lock = threading.Lock()
        self._n = 0
        self._random = random.Random(fault.seed)
        self._unsynced: dict[int, str] = {}
        self._names: dict[str, Path | str | None] = {}
        self._kept = folder / "kept"
        self._log = (folder / "steps").open("w") if fault.kind == "trace" else None
        self._struck = folder / "struck"
        self._quiet = threading.local()

    def arm(self) -> None:
        """Begin; there is no way back in this process."""
        real_open, real_sync = io.open, os.fsync

        def open_watched(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            opened: Any = real_open(file, mode, *rest, **named)
            if "b" in mode and "w" in mode and (path := self._inside(opened.fileno())):
                self._unsynced[os.fstat(opened.fileno()).st_ino] = path
                named.pop("buffering", None)
                raw = _Watched(opened.detach(), self._tear(path))
                return io.BufferedWriter(raw)
            return opened

        def sync(fd: int) -> None:
            if (path := self._inside(fd)) is not None:
                self.step("sync", path)
            with self._lock:  # what is changed while the disk works is not synced yet
                names = [name for name in self._names if os.path.dirname(name) == path]  # noqa: PTH120
                known = {name: self._names.pop(name) for name in names}
            try:
                real_sync(fd)
            except OSError:
                self._names = known | self._names
                raise
            self._unsynced.pop(os.fstat(fd).st_ino, None)

        io.open, os.fsync = open_watched, sync  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _inside(self, fd: int) -> str | None:
        path = f"{Path(f'/proc/self/fd/{fd}').readlink()}/"
        return path.removeprefix(self._root)[:-1] if path.startswith(self._root) else None

    def _tear(self, path: str) -> Callable[[Callable[[bytes], int], bytes], int]:
        def write(real: Callable[[bytes], int], data: bytes) -> int:
            whole = bytes(data)
            self.step("write", path, lambda: real(whole[: self._random.randrange(len(whole) + 1)]))
            return real(whole)

        return write

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._fault.kind == "power" and not getattr(self._quiet, "on", False):
            self._keep(event, arguments)
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & _WRITING:
                self._maybe("open", path)
        elif event in _ONE_PATH:
            self._maybe(_ONE_PATH[event], arguments[0])
        elif event in _TWO_PATHS:
            self._maybe(_TWO_PATHS[event], arguments[1])

    def _keep(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Remember what a name stood for when its folder was synced last, before it changes."""
        changed: list[tuple[Any, Any]] = []
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT:
            changed = [(arguments[0], -1)]
        elif event in _ONE_PATH:
            changed = [(arguments[0], arguments[-1])]
        elif event in _TWO_PATHS:
            changed = [(arguments[0], arguments[2]), (arguments[1], arguments[3])]
        for path, folder in changed:
            if not isinstance(path, str | os.PathLike):
                continue
            place = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path.cwd()
            whole = str(place / os.fspath(path))
            if not whole.startswith(self._root):
                continue
            name = whole.removeprefix(self._root)
            with self._lock:
                if name not in self._names:
                    self._names[name] = self._copy(whole)

    def _copy(self, path: str) -> Path | str | None:
        """Return a second name of a file, "folder" for a folder, None for nothing."""
        self._quiet.on = True
        try:
            if os.path.isdir(path):  # noqa: PTH112
                return "folder"
            self._kept.mkdir(exist_ok=True)
            copy = self._kept / str(len(os.listdir(self._kept)))  # noqa: PTH208
            os.link(path, copy)
        except FileNotFoundError:
            return None
        finally:
            self._quiet.on = False
        return copy

    def _maybe(self, step: str, path: Any) -> None:
        text = os.fspath(path) if not isinstance(path, int) else ""
        # Below a folder that is deleted as a whole, paths are relative to it.
        if isinstance(text, str) and (text.startswith(self._root) or text[:1] not in ("/", "")):
            self.step(step, text.removeprefix(self._root))

    def step(self, step: str, path: str, partly: Callable[[], object] | None = None) -> None:
        """Count a step that is about to be done; ``partly`` does it in part."""
        if getattr(self._quiet, "on", False):
            return
        fault = self._fault
        if self._log:
            self._log.write(f"{step} {path}\n")
            self._log.flush()
            return
        if not (fnmatch.fnmatch(step, fault.step) and fnmatch.fnmatch(path, fault.path)):
            return
        with self._lock:
            self._n += 1
            n = self._n
        refused = {"full": FULL, "readonly": CHANGES, "broken": CHANGES}.get(fault.kind, CHANGES)
        lasting = fault.kind in ("full", "readonly")
        if step not in refused or n < fault.at or (n > fault.at and not lasting):
            return
        self._strike(path, partly)

    def _strike(self, path: str, partly: Callable[[], object] | None) -> None:
        kind = self._fault.kind
        self._struck.touch()
        if kind in ("kill", "power", "full", "broken") and partly:
            partly()
        if kind == "power":
            self._lose()
        if kind in ("kill", "power"):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        number = {"full": errno.ENOSPC, "readonly": errno.EROFS, "broken": errno.EIO}[kind]
        raise OSError(number, os.strerror(number), path)

    def _lose(self) -> None:
        """Do what a power cut does to all that nobody synced.

        Files are there with holes or empty; each name in a folder, of a file or of a folder with
        all below it, is what it was when the folder was synced last, or what it became.
        """
        self._quiet.on = True
        for name, before in sorted(self._names.items()):
            # Not the order of threads decides, but the seed and the name.
            chance = random.Random(f"{self._fault.seed} {plain(name)}")
            place = Path(self._root + name)
            if chance.random() < 0.5 or not place.parent.is_dir():
                continue
            if place.is_dir() and not isinstance(before, str):
                shutil.rmtree(place)
            elif not place.is_dir():
                place.unlink(missing_ok=True)
            if isinstance(before, Path):
                os.link(before, place)
            elif before is not None:
                place.mkdir(exist_ok=True)
        for folder, _, names in os.walk(self._root):
            for name in names:
                file = f"{folder}/{name}"
                if os.lstat(file).st_ino in self._unsynced and self._random.random() < 0.7:
                    size = os.lstat(file).st_size
                    os.truncate(file, self._random.choice([0, size // 2]))


class _Watched(io.RawIOBase):
    """A raw file whose writes are told of."""

    def __init__(
        self, real: io.RawIOBase, write: Callable[[Callable[[bytes], int], bytes], int]
    ) -> None:
        self._real, self._write = real, write
        self.mode = getattr(real, "mode", "wb")

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._real.seekable()

    def seek(self, *arguments: int) -> int:
        return self._real.seek(*arguments)

    def tell(self) -> int:
        return self._real.tell()

    def fileno(self) -> int:
        return self._real.fileno()

    def write(self, data: Any) -> int:
        return self._write(self._real.write, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._real.close()
