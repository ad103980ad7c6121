"""The settings under which soapworks uses Prefect, and where its API is.

Environment variables must stand before Prefect is first imported; nothing here imports it without
need.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CLIENT_ENVIRONMENT: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "0",
    # Prefect's own throw-away server outlives a killed flow, so it must never start one.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "0",
    # distributed sets its log level on import and would undo one that was set before.
    "DASK_LOGGING__DISTRIBUTED": "warning",
}
_OWN_SERVER_ENVIRONMENT: Mapping[str, str] = {
    **_CLIENT_ENVIRONMENT,
    "PREFECT_UI_ENABLED": "0",
    # Only what records task runs is started: no scheduler, late runs, foreman, vacuum, telemetry.
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "0",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "0",
    "PREFECT_SERVER_EVENTS_STREAM_OUT_ENABLED": "0",
    # Recording every task's event in a transaction of its own made SQLite refuse other writes,
    # which clients repeat after two seconds only.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    # Whole seconds: the service cuts off the rest, and 0.3 made it spin on a core of its own.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
_LOOPBACK = ("127.0.0.1", "localhost")


@contextmanager
def client_environment() -> Iterator[None]:
    """Put Prefect's environment in place for this process, and put the old one back after."""
    changes = {
        **_CLIENT_ENVIRONMENT,
        # A proxy of the network must not be asked for our own server.
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), *_LOOPBACK))),
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), *_LOOPBACK))),
    }
    with environment(changes):
        yield


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def own_server_environment(prefect_home: Path, *, migrated: bool) -> dict[str, str]:
    """Make the environment of our own server's process.

    Parameters
    ----------
    prefect_home
        Folder for the server's database.
    migrated
        Whether a database with all tables lies there already.

    Returns
    -------
    dict
        This process's environment without its ``PREFECT_*`` variables (a person's database or
        password must not become our server's), with the settings of a short-lived server.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {
        **inherited,
        **_OWN_SERVER_ENVIRONMENT,
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "0" if migrated else "1",
    }


def configured_api_url() -> str | None:
    """Return the URL of the Prefect API that the environment or the active profile names.

    Prefect is only asked, and so imported, where some file could hold the answer; this lets our
    own server start while Prefect is still being imported.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    if "prefect" not in sys.modules and not _some_file_configures_prefect():
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def _some_file_configures_prefect() -> bool:
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    candidates = {
        Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml"): "",
        Path("prefect.toml"): "",
        Path("pyproject.toml"): "tool.prefect",
        Path(".env"): "PREFECT_",
    }
    return any(
        path.is_file() and word in path.read_text(encoding="utf-8", errors="replace")
        for path, word in candidates.items()
    )


@contextmanager
def api_settings(url: str, *, own_server: bool) -> Iterator[None]:
    """Use the Prefect API at `url` inside the block, also if Prefect was imported long before.

    On our own server, logs are not sent (nobody can read them there) and heartbeats are off: they
    cost a second per flow run, and serve to find dead runs on servers that stay. Prefect has no
    environment variable that turns heartbeats off.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        temporary_settings,
    )

    updates: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    if own_server:
        updates[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
        updates[PREFECT_LOGGING_TO_API_ENABLED] = False
    with environment({"PREFECT_API_URL": url}), temporary_settings(updates):
        yield
