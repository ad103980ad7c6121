"""Settings under which a command uses Prefect, and those of its own server.

Environment variables must be set before Prefect is first imported; only :func:`api_settings`
imports it.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soapworks.flows.engine.configuration import load_settings

_CLIENT_ENVIRONMENT: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "0",
    # Prefect's own throw-away server outlives a killed flow, so it must never start one.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "0",
    # distributed sets its log level on import and would undo an earlier one.
    "DASK_LOGGING__DISTRIBUTED": "warning",
}
_OWN_SERVER_ENVIRONMENT: Mapping[str, str] = {
    **_CLIENT_ENVIRONMENT,
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",",  # no origin; an empty text would mean all
    # Only what records task runs is started: no scheduler, late runs, foreman, vacuum, telemetry.
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "0",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "0",
    "PREFECT_SERVER_EVENTS_STREAM_OUT_ENABLED": "0",
    # Recording every task's event in a transaction of its own made SQLite refuse other writes,
    # which clients repeat only after two seconds.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    # Whole seconds: the service cuts off the rest, and 0.3 made it spin on a core of its own.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
_LOOPBACK = ("127.0.0.1", "localhost")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@contextmanager
def client_environment() -> Iterator[None]:
    """Set Prefect's environment variables inside the block."""
    changes = {
        **_CLIENT_ENVIRONMENT,
        # A proxy of the network must not be asked for our own server.
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), *_LOOPBACK))),
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), *_LOOPBACK))),
    }
    with environment(changes), _home():
        yield


@contextmanager
def _home() -> Iterator[None]:
    """Give Prefect, which does not start without one, a home folder inside the block."""
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor an entry in the list of users
        scratch = tempfile.TemporaryDirectory(prefix="soapworks-home-", ignore_cleanup_errors=True)
        with scratch as home, environment({"HOME": home}):
            yield
    else:
        yield


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables inside the block; None unsets."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def own_server_environment(prefect_home: Path, *, migrated: bool, auth: str) -> dict[str, str]:
    """Return the environment of our own server's process.

    Parameters
    ----------
    prefect_home
        Folder for the server's database.
    migrated
        Whether a database with all tables lies there already.
    auth
        Text that requests must authenticate with, ASCII.

    Returns
    -------
    dict
        This process's environment without its ``PREFECT_*`` variables (a user's database or
        password must not become our server's), with the settings of a short-lived server.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {
        **inherited,
        **_OWN_SERVER_ENVIRONMENT,
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "0" if migrated else "1",
    }


@contextmanager
def api_settings(url: str, *, own_auth: str | None) -> Iterator[None]:
    """Use the Prefect API at `url` inside the block, also if Prefect was imported long before.

    Parameters
    ----------
    url
        The API's.
    own_auth
        Text to authenticate with on our own server; None on any other server.

    Notes
    -----
    On our own server, logs are not sent (nobody can read them there) and heartbeats are off: they
    cost a second per flow run, and serve to find dead runs on servers that stay. Prefect has no
    environment variable that turns heartbeats off.
    """
    load_settings()
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        temporary_settings,
    )

    updates: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    variables: dict[str, str | None] = {"PREFECT_API_URL": url}
    if own_auth is not None:
        updates[PREFECT_API_AUTH_STRING] = own_auth
        updates[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
        updates[PREFECT_LOGGING_TO_API_ENABLED] = False
        variables["PREFECT_API_AUTH_STRING"] = own_auth  # for the processes started in the block
        variables |= dict.fromkeys(_unusable_proxies())
    with environment(variables), temporary_settings(updates):
        yield


def _unusable_proxies() -> Iterator[str]:
    """Yield the proxy variables that httpx fails on, even where no proxy is asked."""
    import httpx

    for name in _PROXIES:
        if value := os.environ.get(name):
            proxy = value if "://" in value else f"http://{value}"
            try:
                httpx.HTTPTransport(verify=False, proxy=proxy).close()
            except (ImportError, ValueError, httpx.InvalidURL):
                yield name
