"""Errors of a storage as one sentence each."""

import contextlib
import errno
from collections.abc import Iterator

from soapworks.errors import MissingProductError, SoapworksError, StoreError, UnreachableError
from soapworks.remote import in_short, is_url


@contextlib.contextmanager
def translate_errors(location: object, doing: str) -> Iterator[None]:
    """Translate any error of the storage into a StoreError about ``location``."""
    try:
        yield
    except SoapworksError:
        raise
    except Exception as error:
        raise storage_error(location, doing, error) from error


def storage_error(location: object, doing: str, error: Exception) -> StoreError:
    """Return the StoreError for an error of the storage, with its cure."""
    number = getattr(error, "errno", None)
    where = f"cannot {doing} {location}"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"{where}: no space left; free some space or choose another store with --store"
        )
    if number == errno.EROFS:
        return StoreError(f"{where}: the store is read-only; choose another with --store")
    if number == errno.ELOOP:
        link = getattr(error, "filename", None) or location
        return StoreError(
            f"{where}: {link} is a symbolic link, which is not followed in a store; put the folder "
            "itself there, or the whole store elsewhere"
        )
    if isinstance(error, PermissionError):
        return StoreError(
            f"{where}: permission denied; check the rights and credentials for this store, or "
            "choose another with --store"
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) and doing != "write":
        return MissingProductError(f"{location} is not there")
    if isinstance(error, FileNotFoundError) and is_url(str(location)):
        return StoreError(
            f"{where}: there is no such bucket; create it, or choose another store with --store"
        )
    reason = in_short(error)
    return UnreachableError(
        f"{where}: {reason.rstrip('.')}; check that the store can be reached, then start again"
    )
