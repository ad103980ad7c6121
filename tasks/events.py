"""Events of a run, and the listeners that they are delivered to.

Stages emit events; progress bars, logs and artifacts are listeners. A stage does not know its
listeners, and without any an event costs nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from soapworks.names import redact


class _Shown:
    """An event whose texts are shown, logged and kept: addresses in them lose their secrets."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str):
                object.__setattr__(self, name, redact(value))


@dataclass(frozen=True)
class StageStarted(_Shown):
    """A stage begins."""

    stage: str
    """Name of the stage, e.g. ``extract``."""
    subject: str
    """Its object, e.g. ``vit_base_patch16_224 · real``."""
    total: int
    """Units of work ahead."""
    unit: str = "images"
    """Name of the units."""


@dataclass(frozen=True)
class StageAdvanced(_Shown):
    """Units of the running stage are done."""

    stage: str
    subject: str
    n: int
    """Units done since the last event."""


@dataclass(frozen=True)
class StageFinished(_Shown):
    """A stage finished successfully."""

    stage: str
    subject: str
    cached: bool
    """Whether the product was there already."""
    seconds: float


@dataclass(frozen=True)
class Waiting(_Shown):
    """Another process is making the product that is wanted here."""

    message: str


@dataclass(frozen=True)
class Notice(_Shown):
    """A message to the user, in one sentence."""

    message: str


Event = StageStarted | StageAdvanced | StageFinished | Waiting | Notice
Listener = Callable[[Event], None]

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Deliver every event emitted inside the block to a listener."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def emit(event: Event) -> None:
    """Deliver an event to all listeners."""
    for listener in _listeners.get():
        listener(event)


@contextmanager
def stage(name: str, subject: str, total: int, unit: str) -> Iterator[Advance]:
    """Emit the events of a stage that runs inside the block.

    Yields
    ------
    Advance
        Call it as units are done.
    """
    emit(StageStarted(name, subject, total, unit))
    started = time.monotonic()
    yield lambda n: emit(StageAdvanced(name, subject, n))
    emit(StageFinished(name, subject, False, time.monotonic() - started))
