"""Download a file by HTTP with a limit of bytes, and never from a network of one's own by chance.

A server may leave the length out and send without end, or redirect to an address inside of this
machine's network.
"""

import ipaddress
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

MAX_BYTES = 64 << 30
"""Bytes after which a download stops; ``SOAPWORKS_MAX_DOWNLOAD`` sets another limit."""

ALLOW_PRIVATE = "SOAPWORKS_ALLOW_PRIVATE_REDIRECTS"
"""Variable that, set to 1, allows redirects to private addresses."""

_PIECE = 1 << 20


def download(
    url: str,
    target: Path,
    *,
    timeout: float = 60.0,
    advance: Callable[[int], object] = lambda n_bytes: None,
) -> None:
    """Download a file whole or not at all.

    Parameters
    ----------
    url
        ``http://`` or ``https://``.
    target
        File to write; its folder is there.
    timeout
        Seconds without an answer after which the download fails.
    advance
        Called with the number of bytes of each piece.

    Raises
    ------
    OSError
        If the server fails, sends more than the limit or less than it announced, or redirects to a
        private address.
    """
    limit = int(os.environ.get("SOAPWORKS_MAX_DOWNLOAD") or MAX_BYTES)
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with (
            build_opener(_Redirects).open(Request(url), timeout=timeout) as answer,
            part.open("wb") as file,
        ):
            announced = answer.headers.get("Content-Length")
            if announced is not None and int(announced) > limit:
                raise OSError(f"it has {announced} bytes, more than the limit of {limit}")
            n_bytes = 0
            while piece := answer.read(_PIECE):
                n_bytes += len(piece)
                if n_bytes > limit:
                    raise OSError(f"it is longer than the limit of {limit} bytes")
                file.write(piece)
                advance(len(piece))
        if announced is not None and n_bytes != int(announced):
            raise OSError(f"it ended after {n_bytes} of {announced} bytes")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def is_private(host: str) -> bool:
    """Return whether a host's name leads into a private network or to this machine.

    Examples
    --------
    >>> is_private("127.0.0.1"), is_private("169.254.169.254"), is_private("8.8.8.8")
    (True, True, False)
    """
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False  # the request itself reports it
    return any(not ipaddress.ip_address(str(place[4][0])).is_global for place in found)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        was, now = (urlsplit(address).hostname or "" for address in (req.full_url, newurl))
        is_allowed = os.environ.get(ALLOW_PRIVATE) == "1" or is_private(was)
        if not is_allowed and is_private(now):
            raise OSError(
                f"{was} redirects to {now}, an address of a private network; set {ALLOW_PRIVATE}=1 "
                "to allow it"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
