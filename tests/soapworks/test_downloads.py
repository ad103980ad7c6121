"""Downloads stop at a limit, are whole or absent, and do not wander into private networks."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from soapworks import downloads, remote
from soapworks.downloads import download


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/cut":
            self.send_header("Content-Length", "100")
        if self.path == "/whole":
            self.send_header("Content-Length", "3")
        if self.path == "/huge":
            self.send_header("Content-Length", str(1 << 60))
        self.end_headers()
        if self.path != "/endless":
            self.wfile.write(b"abc")
            return
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["whole", "unannounced", "moved"])
def test_a_file_is_downloaded(name: str, server: str, tmp_path: Path) -> None:
    download(f"{server}/{name}", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("endless", "longer than the limit of 1000000 bytes"),
        ("huge", "more than the limit"),
        ("cut", "ended after 3 of 100 bytes"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    name: str, words: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAPWORKS_MAX_DOWNLOAD", "1000000")
    with pytest.raises(OSError, match=words):
        download(f"{server}/{name}", tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_public_address_does_not_redirect_to_a_private_one(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(downloads, "is_private", lambda _: next(answers))
    with pytest.raises(OSError, match="an address of a private network"):
        download(f"{server}/moved", tmp_path / "a.pth")
    monkeypatch.setenv(downloads.ALLOW_PRIVATE, "1")
    download(f"{server}/moved", tmp_path / "a.pth")


def test_a_checkpoint_without_an_announced_length_stops_at_the_limit(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path))
    assert remote.local_copy(f"{server}/unannounced").read_bytes() == b"abc"
    monkeypatch.setenv("SOAPWORKS_MAX_DOWNLOAD", "2")
    with pytest.raises(remote.RemoteError, match="longer than the limit of 2 bytes"):
        remote.local_copy(f"{server}/unannounced?again")
