"""Checks of a Prefect server that the user names: one sentence with the cure, at once."""

from http import HTTPStatus
from urllib.parse import urlsplit

from soapworks.errors import EngineError
from soapworks.names import redact

_OWN = (
    "or unset PREFECT_API_URL (`prefect config unset PREFECT_API_URL` for the active profile) and "
    "soapworks starts its own server for each command"
)


def require_address(url: str) -> None:
    """Refuse an invalid address.

    Raises
    ------
    EngineError
        The message does not show secrets of the address.
    """
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


def require_answer(url: str) -> None:
    """Refuse a server that does not answer as a Prefect API, or not to us.

    Raises
    ------
    EngineError
        The message does not show secrets of the address.
    """
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
