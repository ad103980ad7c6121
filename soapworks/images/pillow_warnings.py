"""Keep Pillow's remarks about damaged files out of the terminal.

Everything worth saying about a file is said once, as the reason of an `ImageError`.
"""

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_lock = threading.Lock()
_n_readers = 0


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """Ignore warnings raised inside Pillow's modules while any thread reads an image.

    ``warnings.catch_warnings`` swaps the whole process's filter list and puts back a stale one
    when two threads overlap. Instead a single narrow filter is put in front by the first reader
    and taken out by the last one; all other warnings and filters stay as they are.
    """
    global _n_readers
    # With no handler anywhere, logging prints Pillow's error records to stderr by itself.
    logger = logging.getLogger("PIL")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    with _lock:
        _n_readers += 1
        _place_filter()
    try:
        yield
    finally:
        with _lock:
            _n_readers -= 1
            if _n_readers == 0:
                with suppress(ValueError):
                    _filters().remove(_FILTER)


def _place_filter() -> None:
    if _FILTER not in _filters():
        # warnings.filterwarnings would build this very tuple and also tell the interpreter that
        # the filters changed, so that no earlier decision is taken from its cache.
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _filters() -> list[Any]:
    return cast("list[Any]", warnings.filters)
