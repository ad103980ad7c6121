"""Prefect for the length of one command, with nothing started beforehand and no network.

Importing this module costs nothing: Prefect is imported when :func:`orchestrated` is entered.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from soapworks.errors import EngineError
from soapworks.flows.engine.settings import api_settings, client_environment, configured_api_url

_STARTUP_DEADLINE = 180.0
_DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Engine:
    """The Prefect API that a command uses."""

    api_url: str
    """URL of the API."""
    server_pid: int | None
    """Process id of our own server; None on a server that was there before."""
    startup_seconds: float
    """Time from entering until the API was good, seconds."""


@contextmanager
def orchestrated(
    *,
    home: Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
    deadline: float = _STARTUP_DEADLINE,
) -> Iterator[Engine]:
    """Make Prefect usable inside the block.

    Uses the server that ``PREFECT_API_URL`` or the active Prefect profile names. Without one it
    starts a server of its own on 127.0.0.1, which ends with the block, and with this process
    however that ends. Enter it from synchronous code.

    Parameters
    ----------
    home
        Folder that makes later starts faster; by default ``$SOAPWORKS_HOME/prefect``, or
        ``~/.cache/soapworks/prefect``.
    quiet
        Show errors only.
    verbose
        Show Prefect's own log lines and tracebacks.
    deadline
        Longest wait for a server of our own, seconds.

    Yields
    ------
    Engine
        Where the API is.

    Raises
    ------
    EngineError
        When the server that is named does not answer, or our own does not start.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(client_environment())
        stack.enter_context(_terminated_by_exception())
        url, pid = configured_api_url(), None
        if url is None:
            from soapworks.flows.engine.server import OwnServer

            server = OwnServer(home or _default_home())
            stack.callback(server.stop)
            url, pid = server.url, server.pid
            import prefect  # noqa: F401 - while the server does the same

            server.wait_until_healthy(deadline)
        stack.enter_context(api_settings(url, own_server=pid is not None))
        from soapworks.flows.engine.log import short_log_lines

        stack.enter_context(short_log_lines(quiet=quiet, verbose=verbose))
        if pid is None:
            _require_answer(url)
        else:
            stack.callback(_send_what_is_queued)
        yield Engine(url, pid, time.monotonic() - began)


def _default_home() -> Path:
    return Path(os.environ.get("SOAPWORKS_HOME") or "~/.cache/soapworks").expanduser() / "prefect"


def _require_answer(url: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        reason = client.api_healthcheck()
    if reason is not None:
        raise EngineError(
            f"No Prefect server answers at {url} ({reason}): start one with `prefect server "
            "start`, or unset PREFECT_API_URL (`prefect config unset PREFECT_API_URL` for the "
            "active profile) and soapworks starts its own for each command."
        )


def _send_what_is_queued() -> None:
    # Later, Prefect's threads would find no server and complain at the end of the process.
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=_DRAIN_SECONDS)


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Let SIGTERM leave through every ``with`` and ``finally``, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # somebody else takes care of it
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
