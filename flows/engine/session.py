"""Prefect for the duration of one command, with nothing started beforehand and no network.

Importing this module is cheap: :func:`orchestrated` imports Prefect when it is entered.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from soapworks.flows.engine.configuration import configured_api_url, load_settings
from soapworks.flows.engine.named_server import require_address, require_answer
from soapworks.flows.engine.settings import api_settings, client_environment
from soapworks.remote import home_folder

_STARTUP_DEADLINE = 180.0
_DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Engine:
    """The Prefect API that a command uses."""

    api_url: str
    """URL of the API."""
    server_pid: int | None
    """Process id of our own server; None on any other."""


@contextmanager
def orchestrated(
    *,
    home: Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
    deadline: float = _STARTUP_DEADLINE,
) -> Iterator[Engine]:
    """Make Prefect usable inside the block.

    It uses the server that ``PREFECT_API_URL`` or the active Prefect profile names. Otherwise it
    starts its own on 127.0.0.1, which ends with the block, and with this process however that
    ends; only this process and its children can authenticate there. Enter it from synchronous
    code.

    Parameters
    ----------
    home
        Folder that speeds up later starts; by default ``$SOAPWORKS_HOME/prefect``, or
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
        If Prefect's settings are invalid, the named server does not answer as a Prefect API, or
        our own does not start.
    """
    with ExitStack() as stack:
        stack.enter_context(client_environment())
        stack.enter_context(_terminated_by_exception())
        url, server = configured_api_url(), None
        if url is None:
            from soapworks.flows.engine.server import OwnServer

            server = OwnServer(home or home_folder() / "prefect")
            stack.callback(server.stop)
            url = server.url
            load_settings()  # imports Prefect, while the server does the same
            server.wait_until_healthy(deadline)
            _send_queued_events()  # of earlier flows in this process, to the server before
        require_address(url)
        stack.enter_context(api_settings(url, own_auth=server.auth if server else None))
        from soapworks.flows.engine.log import short_log_lines

        stack.enter_context(short_log_lines(quiet=quiet, verbose=verbose))
        if server is None:
            require_answer(url)
        else:
            stack.callback(_send_queued_events)
        yield Engine(url, server.pid if server else None)


def _send_queued_events() -> None:
    # Later, Prefect's threads would find no server and log errors at the end of the process.
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=_DRAIN_SECONDS)


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, unless it is already handled."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
