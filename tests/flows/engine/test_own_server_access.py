"""Our own server answers its command alone: nobody else on the machine, no page in a browser."""

import logging
import os
from pathlib import Path

import httpx
import psutil
import pytest

from soapworks.flows.engine.session import Engine, orchestrated

pytestmark = pytest.mark.server
EVENT = {"resource": {"prefect.resource.id": "x"}, "event": "x", "occurred": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/flows/filter", {}),
        ("POST", "/flows/", {"name": "intruder"}),
        ("GET", "/admin/settings", None),
        ("GET", "/admin/version", None),
        ("POST", "/events", [EVENT]),
    ],
)
def test_requests_without_the_secret_are_refused(
    engine: Engine, method: str, path: str, body: object
) -> None:
    for auth in (None, ("soapworks", ""), ("admin", "pass")):
        answer = httpx.request(method, engine.api_url + path, json=body, auth=auth, timeout=30)
        assert answer.status_code == 401


def test_the_command_itself_is_answered(engine: Engine) -> None:
    user, _, password = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    answer = httpx.get(f"{engine.api_url}/admin/version", auth=(user, password), timeout=30)
    assert answer.status_code == 200


def test_no_origin_is_allowed(engine: Engine) -> None:
    for origin in ("https://example.org", "null", engine.api_url.removesuffix("/api")):
        answer = httpx.get(f"{engine.api_url}/health", headers={"Origin": origin}, timeout=30)
        assert "access-control-allow-origin" not in answer.headers


def test_other_host_names_are_refused(engine: Engine) -> None:
    headers = {"Host": "rebound.example.org"}
    assert httpx.get(f"{engine.api_url}/health", headers=headers, timeout=30).status_code == 400


def test_websockets_without_the_secret_are_closed(engine: Engine) -> None:
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    address = engine.api_url.replace("http://", "ws://") + "/events/in"
    with pytest.raises(WebSocketException):
        connect(address, proxy=None).recv(timeout=30)


def test_the_secret_is_nowhere_to_be_read(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow
    def noop() -> None:
        logging.getLogger(__name__).info("in the flow")

    secret = os.environ["PREFECT_API_AUTH_STRING"].partition(":")[2]
    assert len(secret) > 40
    with caplog.at_level("DEBUG"):
        noop()
    assert engine.server_pid
    server = psutil.Process(engine.server_pid)
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs()
    assert secret not in run.model_dump_json()
    for process in (server, psutil.Process()):
        assert secret not in "\0".join(process.cmdline())
    assert secret not in caplog.text
    kept = [Path(server.cwd()), Path(os.environ["SOAPWORKS_HOME"])]
    files = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "server.log" for path in files)
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_every_command_has_a_secret_of_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = os.environ["PREFECT_API_AUTH_STRING"]
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setattr("soapworks.flows.engine.session.configured_api_url", lambda: None)
    with orchestrated():
        assert os.environ["PREFECT_API_AUTH_STRING"] != outer
    assert os.environ["PREFECT_API_AUTH_STRING"] == outer
