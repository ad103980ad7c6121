"""The one thread of a process that keeps its leases alive.

It runs while a lease is held, and never keeps a process from ending. Leases do not outlive their
process: they are released at an orderly exit, and SIGTERM, where nobody else handles it, is made
an orderly exit while a lease is held.
"""

import atexit
import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Protocol


class Beating(Protocol):
    """What the thread needs of a lease."""

    seconds: float

    def beat(self) -> None: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


class _Heart:
    def __init__(self) -> None:
        self._due: dict[Beating, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self, lease: Beating) -> None:
        with self._changed:
            self._due[lease] = time.monotonic() + lease.seconds / 4
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self, lease: Beating) -> None:
        with self._changed:
            self._due.pop(lease, None)
            self._changed.notify()

    def held(self) -> list[Beating]:
        with self._changed:
            return list(self._due)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._due:
                    self._thread = None
                    return
                lease, due = min(self._due.items(), key=lambda item: item[1])
                if (wait := due - time.monotonic()) > 0:
                    self._changed.wait(wait)
                    continue
                self._due[lease] = time.monotonic() + lease.seconds / 4
            lease.beat()


_heart = _Heart()


def start(lease: Beating) -> None:
    """Keep ``lease`` alive until :func:`stop` or the end of the process."""
    _heart.start(lease)
    _exit_in_order_on_sigterm()


def stop(lease: Beating) -> None:
    """No longer keep ``lease`` alive."""
    _heart.stop(lease)


@atexit.register
def release_all() -> None:
    """Release every lease that this process holds."""
    for lease in _heart.held():
        lease.release()


def _exit_in_order_on_sigterm() -> None:
    # Signals can be set in the main thread alone; elsewhere the lease is left to the others, who
    # see that the process is gone, or to expiry.
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    if _heart.held():
        raise SystemExit(128 + number)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _forget_after_fork() -> None:
    # A forked child has neither the thread nor the leases: they are its parent's.
    global _heart
    _heart = _Heart()


with contextlib.suppress(AttributeError):
    os.register_at_fork(after_in_child=_forget_after_fork)
