"""What a person is told of an error: one sentence, at the door."""

import errno

from soapworks.errors import SoapworksError


def user_message(error: BaseException) -> str:
    """Return what a person is told of an error."""
    if isinstance(error, SoapworksError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"no space left on the disk ({error.filename or 'the store'}): make room and run again"
        )
    if isinstance(error, MemoryError):
        return "memory ran out: lower --batch-size, --workers or --memory and run again"
    first = str(error).strip().splitlines() or [""]
    return (
        f"unexpected {type(error).__name__}: {first[0]} (please report it; --debug shows where "
        "it came from)"
    )
