"""Call a function in a process of its own, which is ended when it makes no progress.

A file of a stranger can hang a reader, fill the memory or crash the process, and a thread cannot be
ended. The events and log records of the child appear in this process as if they were its own.
"""

import ctypes
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from soapworks.errors import ResourceError, StalledError
from soapworks.tasks.events import Event, Waiting, emit, listening

R = TypeVar("R")

GRACE_SECONDS = 10.0
"""Seconds that a child has to end by itself before it is killed."""

START_SECONDS = 300.0
"""Seconds that a child may take to import what it needs, beyond its limit."""

_PR_SET_PDEATHSIG = 1


def call_in_child(function: Callable[..., R], *arguments: Any, stall_seconds: float) -> R:
    """Return what a function returns, or raise what it raises, in a process of its own.

    Parameters
    ----------
    function, arguments
        Picklable, as are the result and the events.
    stall_seconds
        Seconds without an event after which the child is ended; waiting for another process or
        for a slot does not count.

    Raises
    ------
    StalledError
        No event came for ``stall_seconds``; the child has ended.
    ResourceError
        The child died: it was killed or crashed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, os.getpid(), function, arguments))
    child.start()
    sender.close()
    try:
        result = _receive(receiver, child, stall_seconds)
    except BaseException:
        _end(child, interrupt=True)
        raise
    finally:
        receiver.close()
    _end(child, interrupt=False)
    if isinstance(result, BaseException):
        raise result
    return result


def relay_logs() -> None:
    """Send this child's log records to the parent's root handlers, and nowhere else by itself."""
    if _relay is not None:
        logging.getLogger().handlers[:] = [_relay]


def heartbeat() -> None:
    """Report progress that is no event, from any thread of a child: once a second at most."""
    if _relay is not None and time.monotonic() - _relay.beat_at > 1.0:
        _relay.beat_at = time.monotonic()
        _relay.send("event", None)


class _Relay(logging.Handler):
    """Sends what happens in a child to its parent."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection, self._sending = connection, threading.Lock()
        self.beat_at = 0.0

    def send(self, kind: str, content: Any) -> None:
        data = pickle.dumps((kind, content))
        with self._sending:
            self._connection.send_bytes(data)

    def emit(self, record: logging.LogRecord) -> None:
        plain: dict[str, Any] = {
            k: v for k, v in vars(record).items() if isinstance(v, str | int | float)
        }
        plain |= {"msg": record.getMessage(), "args": None}
        with suppress(OSError):
            self.send("log", plain)


_relay: _Relay | None = None


def _serve(
    connection: Connection, parent: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Run in the child."""
    global _relay
    # Ctrl-C in a terminal reaches the parent alone, which then ends this group.
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _relay = relay = _Relay(connection)

    def listener(event: Event) -> None:
        relay.send("event", event)

    try:
        heartbeat()  # started
        with listening(listener):
            result = function(*arguments)
    except KeyboardInterrupt:
        return
    except BaseException as error:  # noqa: BLE001 - it is the parent's to judge
        relay.send("error", _chain(error))
    else:
        relay.send("result", result)


def _receive(connection: Connection, child: BaseProcess, stall_seconds: float) -> Any:
    """Return the result, or the error, of a child; pass on its events and log records."""
    patience: float | None = stall_seconds + START_SECONDS
    heard = time.monotonic()
    while True:
        left = None if patience is None else max(heard + patience - time.monotonic(), 0.0)
        if not connection.poll(left):
            raise StalledError(
                f"made no progress for {stall_seconds:g} s (limit --stall-seconds) and was "
                "abandoned"
            )
        try:
            kind, content = pickle.loads(connection.recv_bytes())
        except EOFError:
            raise ResourceError(_death(child)) from None
        match kind:
            case "event":
                if content is not None:
                    emit(content)
                patience = None if isinstance(content, Waiting) else stall_seconds
                heard = time.monotonic()
            case "log":
                record = logging.makeLogRecord(content)
                for handler in logging.getLogger().handlers:
                    if record.levelno >= handler.level:
                        handler.handle(record)
            case "error":
                return _linked(content)
            case "result":
                return content


def _end(child: BaseProcess, *, interrupt: bool) -> None:
    """Wait a little for the end of a child and its children, then kill them."""
    if (pid := child.pid) is None:
        return
    try:
        if interrupt:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        child.join(GRACE_SECONDS)
    finally:  # also on a second Ctrl-C
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        child.kill()
        child.join(GRACE_SECONDS)


def _death(child: BaseProcess) -> str:
    child.join(GRACE_SECONDS)
    code = child.exitcode
    if code == -signal.SIGKILL:
        return "its process was killed, most likely for lack of memory: lower --memory"
    if code is not None and code < 0:
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process ended early (exit status {code})"


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and its causes, each so that it can be pickled: pickling drops causes."""
    chain: list[BaseException] = []
    while error is not None and len(chain) < 16:
        try:
            pickle.loads(pickle.dumps(error))
            chain.append(error)
        except Exception:  # noqa: BLE001 - errors of libraries fail in any way
            kind = OSError if isinstance(error, OSError) else RuntimeError
            chain.append(kind(f"{type(error).__name__}: {error}"))
        error = error.__cause__
    return chain


def _linked(chain: list[BaseException]) -> BaseException:
    for error, cause in itertools.pairwise(chain):
        error.__cause__ = cause
    return chain[0]
