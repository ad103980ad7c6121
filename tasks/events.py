"""What happens during a run, told to whoever listens.

Stages emit events; progress bars, logs and artifacts are listeners. Nothing in a stage knows who
listens, and with nobody listening an event costs nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage begins."""

    stage: str
    """What is done, e.g. ``extract``."""
    subject: str
    """What it is done to, e.g. ``vit_base_patch16_224 · real``."""
    total: int
    """Units of work ahead."""
    unit: str = "images"
    """What a unit is."""


@dataclass(frozen=True)
class StageAdvanced:
    """Some units of the running stage are done."""

    stage: str
    subject: str
    n: int
    """Units done since the last event."""


@dataclass(frozen=True)
class StageFinished:
    """A stage ends well."""

    stage: str
    subject: str
    cached: bool
    """Whether the product was there already."""
    seconds: float


@dataclass(frozen=True)
class Waiting:
    """Another process is making what is wanted here."""

    message: str


@dataclass(frozen=True)
class Notice:
    """Something a person should know, in one sentence."""

    message: str


Event = StageStarted | StageAdvanced | StageFinished | Waiting | Notice
Listener = Callable[[Event], None]

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener every event emitted inside the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def emit(event: Event) -> None:
    """Tell everyone who listens."""
    for listener in _listeners.get():
        listener(event)


@contextmanager
def stage(name: str, subject: str, total: int, unit: str) -> Iterator[Advance]:
    """Tell of a stage that is done inside the block.

    Yields
    ------
    Advance
        To be called as units are done.
    """
    emit(StageStarted(name, subject, total, unit))
    started = time.monotonic()
    yield lambda n: emit(StageAdvanced(name, subject, n))
    emit(StageFinished(name, subject, False, time.monotonic() - started))
