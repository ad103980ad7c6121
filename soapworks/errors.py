"""Errors of soapworks.

Every message is one sentence in the user's own terms: what is wrong, where, which limit, what to
do. The command line prints that sentence alone; ``--debug`` shows the traceback.
"""

import errno
from collections.abc import Mapping
from typing import Any

from soapworks.names import redact


class SoapworksError(Exception):
    """Anything that soapworks refuses or cannot do, in one sentence.

    Addresses in the message lose user, password and query: it is printed, logged and remembered.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(SoapworksError, ValueError):
    """An argument, an array's shape or a value that cannot be used."""


class CollapsedFeaturesError(InputError):
    """Features that do not vary: no component of theirs has a score."""


class ImageError(SoapworksError, ValueError):
    """One image that cannot be read or is refused; the message is the short reason."""


class CheckpointError(SoapworksError, ValueError):
    """A checkpoint that cannot be found, read, trusted or fitted to its architecture."""


class NotACheckpointError(CheckpointError):
    """A readable file without a backbone: an optimizer's, a scheduler's or a trainer's state."""


class LayerError(SoapworksError, KeyError):
    """A layer that the backbone does not have; the message lists the ones it has."""

    def __str__(self) -> str:
        """Return the message itself (KeyError would show its repr)."""
        return str(self.args[0]) if self.args else ""


class HeadError(SoapworksError, ValueError):
    """A head's file that is not one, or a head that does not fit the backbone."""


class PrecisionError(SoapworksError, ArithmeticError):
    """NaN, infinity or overflow of the stored dtype in features or statistics."""


class RoundingError(PrecisionError):
    """Layers whose features float16 does not hold.

    Attributes
    ----------
    layers
        Layer -> the reason, without the cure.
    """

    def __init__(self, layers: Mapping[str, str]) -> None:
        self.layers = dict(layers)
        reasons = "; ".join(self.layers.values())
        super().__init__(f"{reasons}; run with --store-dtype auto or float32")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the layers: an error is rebuilt from its message otherwise."""
        return type(self), (self.layers,)


class StoreError(SoapworksError, OSError):
    """A store that cannot be read from or written to."""


class UnreachableError(StoreError):
    """A storage that failed for no reason of ours: a lost connection, a broken disk."""


class MissingProductError(StoreError, FileNotFoundError):
    """A product that is not in the store; the message names those that are, and the cure."""


class DamagedProductError(StoreError):
    """A product whose bytes are gone or differ from its completion record."""

    @classmethod
    def of(cls, place: object, reason: str) -> "DamagedProductError":
        """Return the error for a product, with its cure."""
        return cls(f"{place} is damaged: {reason}; run soapworks verify --repair")


class ResourceError(SoapworksError, RuntimeError):
    """A run that would not fit into disk or memory, refused with both numbers."""


class StalledError(SoapworksError, TimeoutError):
    """Work that made no progress for longer than its limit, and was ended."""


class EngineError(SoapworksError, RuntimeError):
    """A workflow engine or cluster that could not be started or reached."""


def user_message(error: BaseException) -> str:
    """Return the sentence that users read of an exception.

    Parameters
    ----------
    error
        Any exception; of those that are not soapworks's own, a full disk, exhausted memory and a
        missing home folder have a known cure.

    Examples
    --------
    >>> user_message(InputError("tau must be above 0, and is -1"))
    'tau must be above 0, and is -1'
    """
    if _is_out_of_memory(error):
        return (
            "memory ran out: lower --batch-size, --workers or --memory, or raise the process's "
            "limit (ulimit -v), and run again"
        )
    if isinstance(error, SoapworksError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = error.filename or "the store"
        return f"no space left on the disk ({place}): make room and run again"
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "the home folder is not known: set HOME, or SOAPWORKS_HOME to a folder for copies"
    first = redact((str(error).strip().splitlines() or [""])[0])
    return (
        f"unexpected {type(error).__name__}: {first} (please report it; --debug shows where it "
        "came from)"
    )


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an exception, or one behind it, comes from too little memory."""
    while error is not None:
        # A library that cannot be mapped is an ImportError.
        short = isinstance(error, ImportError) and "failed to map" in str(error)
        if short or isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM:
            return True
        error = error.__cause__
    return False
