"""Checkpoints behind URLs: what is there, and copies on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soapworks.backbones.files.names import choose_weights, has_weights_suffix, list_weights
from soapworks.errors import CheckpointError
from soapworks.remote import RemoteError, facts_of, is_url, local_copy, names_in


def find_remote(url: str) -> tuple[str, str | None]:
    """Return the URLs of a checkpoint's weights and of its configuration, if it has one.

    Parameters
    ----------
    url
        A weights file (by its suffix), or a folder in the Hugging Face form.

    Raises
    ------
    CheckpointError
        Where nothing of the kind is there; the message says what is. Or the storage cannot be read.
    """
    url = url.rstrip("/")
    with _translate_errors(url):
        if has_weights_suffix(url):
            if facts_of(url) is None:
                raise CheckpointError(f"there is no checkpoint {url}: {_beside(url)}")
            return url, None
        names = names_in(url)
        if not names:
            raise CheckpointError(f"there is no checkpoint {url}: {_beside(url)}")
        weights, config = choose_weights(names, url)
        return f"{url}/{weights}", f"{url}/{config}" if config else None


def fingerprint_of(address: str) -> list[Any]:
    """Return the fingerprint of a file by path or URL, see ``soapworks.remote.facts_of``.

    Raises
    ------
    CheckpointError
        If it is gone or the storage cannot be read.
    """
    with _translate_errors(address):
        facts = facts_of(address)
    if facts is None:
        raise CheckpointError(f"{address} is gone")
    return facts


def local_file(source: str) -> Path:
    """Return a path or a URL's file as a file on this machine.

    Raises
    ------
    CheckpointError
        Where a URL's file is gone or cannot be read.
    """
    if not is_url(source):
        return Path(source)
    with _translate_errors(source):
        try:
            return local_copy(source)
        except FileNotFoundError as error:
            raise CheckpointError(f"{source} is gone") from error


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise CheckpointError(
            f"{url} cannot be read ({error}): check the address, the network and the credentials"
        ) from error


def _beside(url: str) -> str:
    """Return which weights files are near a missing one, in words."""
    folder = url.rpartition("/")[0]
    if folder.endswith("/"):  # the name was a bucket's
        return "nothing is in it"
    return list_weights(names_in(folder), folder)
