"""Prefect for the duration of one command, with nothing started beforehand and no network.

Importing this module is cheap: :func:`orchestrated` imports Prefect when it is entered.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from soapworks.errors import EngineError
from soapworks.flows.engine.settings import (
    api_settings,
    client_environment,
    configured_api_url,
    load_settings,
)
from soapworks.names import redact

_STARTUP_DEADLINE = 180.0
_DRAIN_SECONDS = 5.0
_OWN = (
    "or unset PREFECT_API_URL (`prefect config unset PREFECT_API_URL` for the active profile) and "
    "soapworks starts its own server for each command"
)


@dataclass(frozen=True)
class Engine:
    """The Prefect API that a command uses."""

    api_url: str
    """URL of the API."""
    server_pid: int | None
    """Process id of our own server; None on any other."""
    startup_seconds: float
    """Time from entering the block until the API answered, seconds."""


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
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(client_environment())
        stack.enter_context(_terminated_by_exception())
        url, server = configured_api_url(), None
        if url is None:
            from soapworks.flows.engine.server import OwnServer

            server = OwnServer(home or _default_home())
            stack.callback(server.stop)
            url = server.url
            load_settings()  # imports Prefect, while the server does the same
            server.wait_until_healthy(deadline)
            _send_queued_events()  # of earlier flows in this process, to the server before
        _require_address(url)
        stack.enter_context(api_settings(url, own_auth=server.auth if server else None))
        from soapworks.flows.engine.log import short_log_lines

        stack.enter_context(short_log_lines(quiet=quiet, verbose=verbose))
        if server is None:
            _require_answer(url)
        else:
            stack.callback(_send_queued_events)
        yield Engine(url, server.pid if server else None, time.monotonic() - began)


def _default_home() -> Path:
    return Path(os.environ.get("SOAPWORKS_HOME") or "~/.cache/soapworks").expanduser() / "prefect"


def _require_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise EngineError(
            f"the address of the Prefect API cannot be used: {redact(url)}; set PREFECT_API_URL to "
            f"one such as http://127.0.0.1:4200/api, {_OWN}"
        )


def _require_answer(url: str) -> None:
    """Refuse a server that does not answer as a Prefect API, or not to us."""
    import httpx
    from prefect.client.orchestration import get_client

    where = f"the Prefect API at {redact(url)}"
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            cure = "set PREFECT_API_AUTH_STRING to the server's (PREFECT_API_KEY on Prefect Cloud)"
        else:
            cure = "give the address of the API itself, which ends in /api"
        raise EngineError(f"{where} answers with status {status}: {cure}, {_OWN}") from error
    except (httpx.TransportError, httpx.TooManyRedirects) as error:
        raise EngineError(
            f"no Prefect server answers at {redact(url)} ({redact(error)}): start one with "
            f"`prefect server start`, {_OWN}"
        ) from error
    except ImportError as error:  # of httpx, for some proxies
        raise EngineError(
            f"{where} cannot be reached through the proxy of this environment ({error}): install "
            "that package, or unset ALL_PROXY"
        ) from error
    except ValueError as error:  # no JSON, or not of this form
        raise EngineError(
            f"{redact(url)} answers, but not as a Prefect API: give the address of the API itself, "
            f"which ends in /api, {_OWN}"
        ) from error


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
