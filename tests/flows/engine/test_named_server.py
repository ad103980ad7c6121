"""A named server or settings that are wrong: one sentence with the cure, at once."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import pytest

from soapworks.errors import EngineError
from soapworks.flows.engine.session import orchestrated

PAGE = b"<!doctype html><title>Welcome</title>"


@contextmanager
def answering(status: HTTPStatus, body: bytes, **headers: str) -> Iterator[str]:
    """A server on loopback with one answer to everything but the folder /page/."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            to_page = self.path.startswith("/page/")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(HTTPStatus.OK if to_page else status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(PAGE if to_page else body)))
            self.end_headers()
            self.wfile.write(PAGE if to_page else body)

        do_POST = do_GET  # noqa: N815 - the base class's name

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


def message_of(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(EngineError) as caught, orchestrated():
        pass
    message = str(caught.value)
    assert "PREFECT_API_URL" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (HTTPStatus.OK, PAGE, {}, "not as a Prefect API.* ends in /api"),
        (HTTPStatus.OK, b'{"status": "fine"}', {}, "not as a Prefect API"),
        (HTTPStatus.OK, b"", {}, "not as a Prefect API"),
        (HTTPStatus.FOUND, b"", {"Location": "/page/login"}, "not as a Prefect API"),
        (HTTPStatus.FOUND, b"", {"Location": "/api/again"}, "no Prefect server answers"),
        (HTTPStatus.UNAUTHORIZED, b"{}", {}, "status 401: set PREFECT_API_AUTH_STRING"),
        (HTTPStatus.FORBIDDEN, PAGE, {}, "status 403: set PREFECT_API_AUTH_STRING"),
        (HTTPStatus.NOT_FOUND, PAGE, {}, "status 404: give the address of the API itself"),
        (HTTPStatus.INTERNAL_SERVER_ERROR, PAGE, {}, "status 500"),
    ],
)
def test_server_that_is_no_prefect_api(
    monkeypatch: pytest.MonkeyPatch,
    status: HTTPStatus,
    body: bytes,
    headers: dict[str, str],
    said: str,
) -> None:
    with answering(status, body, **headers) as address:
        assert re.search(said, message_of(f"http://{address}", monkeypatch))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4200/api",
        "htp://127.0.0.1:4200/api",
        "http://",
        "http://[::1/api",
        "http://127.0.0.1:99999/api",
        "not an address",
    ],
)
def test_address_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert "cannot be used" in message_of(url, monkeypatch)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@{}",
        "http://s3cret@{}",
        "http://{}?X-Amz-Signature=s3cret",
        "https://user:s3cret@127.0.0.1:9/api",
        "htp://user:s3cret@127.0.0.1/api",
        "http://user:s3cret@[::1/api",
    ],
)
@pytest.mark.parametrize("status", [HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED])
def test_secrets_in_the_address_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, url: str, status: HTTPStatus
) -> None:
    with answering(status, PAGE) as address:
        assert "s3cret" not in message_of(url.format(address), monkeypatch)
