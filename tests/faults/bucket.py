"""A server that speaks S3 and does not always answer."""

import logging
import random
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("lost", "unanswered", "cut", "silent", "500", "503", "throttled", "gone", "mute")
ENDLESS = ("gone", "mute")
MOST = {"silent": 3}
"""Requests that are struck at most, where that is not 24: to wait takes time."""
SILENCE = 60.0
"""Seconds after which even a silent server gives a connection up."""


@dataclass
class Trouble:
    """What happens to the requests for one bucket."""

    kind: str
    """lost: the connection breaks before the request is done; unanswered: after; cut: in the
    middle of the answer; silent: no answer, and the connection stays; 500, 503: an error;
    throttled: every third is told to slow down; gone, mute: lost and silent for ever."""
    at: int
    """Number of the request at which it begins."""
    strikes: int = 1
    """Number of requests that it happens to, where it ends."""
    n_requests: int = 0
    n_struck: int = 0

    def strike(self) -> bool:
        """Count a request, and return whether something happens to it."""
        self.n_requests += 1
        past = self.n_requests - self.at
        if past < 0 or (self.kind == "throttled" and past % 3):
            return False
        if self.kind not in ENDLESS and self.n_struck >= self.strikes:
            return False
        self.n_struck += 1
        return True


class Unreliable:
    """moto's application, with trouble on the way to it or back.

    Parameters
    ----------
    app
        The application that answers.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock = threading.Lock()
        self.troubles: dict[str, Trouble] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request, or not."""
        bucket = environ["PATH_INFO"].lstrip("/").partition("/")[0]
        with self._lock:
            trouble = self.troubles.get(bucket)
            kind = trouble.kind if trouble and trouble.strike() else ""
        if kind in ("500", "503", "throttled"):
            status = "500 Internal Server Error" if kind == "500" else "503 Slow Down"
            code = "InternalError" if kind == "500" else "SlowDown"
            start_response(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]
        if kind in ("silent", "mute"):
            select.select([environ["werkzeug.socket"]], [], [], SILENCE)  # until the client goes
        if kind in ("lost", "gone", "silent", "mute"):
            _break(environ)
        answer = self._app(environ, start_response)
        if kind == "unanswered":
            list(answer)
            _break(environ)
        if kind == "cut":
            whole = b"".join(answer)
            return _cut(environ, whole[: len(whole) // 2])
        return answer


def _cut(environ: dict[str, Any], part: bytes) -> Iterator[bytes]:
    yield part
    _break(environ)


def _break(environ: dict[str, Any]) -> None:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)  # or the server waits for the next request on it
    raise ConnectionResetError("the connection breaks")


@contextmanager
def serving() -> Iterator[tuple[str, Unreliable]]:
    """Serve on loopback: the endpoint's URL, and the application."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request else
    app = Unreliable(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def download(client: Any, bucket: str, folder: Path) -> None:
    """Copy all objects of a bucket to a folder."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    for item in (item for page in pages for item in page.get("Contents", ())):
        file = folder / item["Key"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())


def trouble(seed: int, n_requests: int) -> Trouble:
    """Return the trouble of a seed, in a run of so many requests."""
    rng, kind = random.Random(seed), KINDS[seed % len(KINDS)]
    return Trouble(kind, rng.randrange(1, n_requests), rng.randint(1, MOST.get(kind, 24)))
