"""Progress on Prefect's pages: a listener that keeps an artifact per running stage.

A second thread calls the server, so a slow server delays nothing and a dead one fails nothing.
"""

import contextvars
import logging
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate

from soapworks.tasks.events import Event, StageAdvanced, StageFinished, StageStarted, listening

UPDATE_SECONDS = 2.0
"""Shortest time between two updates of a stage."""

DRAIN_SECONDS = 5.0
"""Longest wait for the last calls at the end."""

logger = logging.getLogger(__name__)


@contextmanager
def showing_progress_artifacts(*, seconds: float = UPDATE_SECONDS) -> Iterator[None]:
    """Show the progress of stages inside the block, each in its own run.

    Parameters
    ----------
    seconds
        Shortest time between two updates of a stage.
    """
    with get_client(sync_client=True) as client:
        listener = ArtifactListener(client, seconds)
        try:
            with listening(listener):
                yield
        finally:
            listener.close()


@dataclass
class _Running:
    """A running stage."""

    started: StageStarted
    done: int = 0
    updated_at: float = -math.inf
    artifact: "Future[UUID] | None" = None
    last: "Future[Any] | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class ArtifactListener:
    """Create a progress artifact when a stage starts, and update it as the stage advances.

    Events may come from several threads. The first call that fails is logged and is the last.

    Parameters
    ----------
    client
        The server's client.
    seconds
        Shortest time between two updates of a stage.
    """

    def __init__(self, client: SyncPrefectClient, seconds: float = UPDATE_SECONDS) -> None:
        self._client, self._seconds = client, seconds
        self._running: dict[tuple[str, str], _Running] = {}
        self._calls: set[Future[Any]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="progress-artifacts")
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        match event:
            case StageStarted():
                self._start(event)
            case StageAdvanced():
                running = self._running.get((event.stage, event.subject))
                if running is not None:
                    self._advance(running, event.n)
            case StageFinished():
                running = self._running.pop((event.stage, event.subject), None)
                if running is not None:
                    total, unit = running.started.total, running.started.unit
                    self._report(running, 100.0, f"{total:,} {unit} in {event.seconds:,.1f} s")

    def drain(self) -> None:
        """Wait a little for pending calls."""
        wait(list(self._calls), timeout=DRAIN_SECONDS)

    def close(self) -> None:
        """Wait a little for pending calls, and drop those that have not begun."""
        self.drain()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self, event: StageStarted) -> None:
        running = _Running(event, updated_at=time.monotonic())
        self._running[event.stage, event.subject] = running
        words = _described(event, f"{event.total:,} {event.unit}")
        running.artifact = self._call(create_progress_artifact, 0.0, description=words)

    def _advance(self, running: _Running, n: int) -> None:
        started = running.started
        with running.lock:
            running.done += n
            now = time.monotonic()
            busy = running.last is not None and not running.last.done()
            if busy or now - running.updated_at < self._seconds:
                return
            running.updated_at = now
            done = running.done
        share = 100.0 * min(done / started.total, 1.0) if started.total else 0.0
        self._report(running, share, f"{done:,} of {started.total:,} {started.unit}")

    def _report(self, running: _Running, percent: float, words: str) -> None:
        if running.artifact is not None:
            described = _described(running.started, words)
            running.last = self._call(self._update, running.artifact, percent, described)

    def _update(self, artifact: "Future[UUID]", percent: float, words: str) -> None:
        # One thread does all calls in order, so the artifact was made before.
        self._client.update_artifact(
            artifact.result(timeout=0), ArtifactUpdate(data=percent, description=words)
        )

    def _call(self, function: Any, *arguments: Any, **named: Any) -> "Future[Any] | None":
        if self._failed:
            return None
        # In the emitter's context: the artifact belongs to its run, and without the settings of
        # this thread Prefect would start a server of its own.
        run = contextvars.copy_context().run
        with suppress(RuntimeError):  # closed in the meantime
            call = self._thread.submit(run, self._guarded, function, *arguments, **named)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            return call
        return None

    def _guarded(self, function: Any, *arguments: Any, **named: Any) -> Any:
        if self._failed:
            return None
        try:
            return function(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - progress must not fail the work
            self._failed = True
            logger.warning("progress is no longer shown in Prefect: %s", error)
            return None


def _described(started: StageStarted, words: str) -> str:
    # Descriptions are markdown, file names are not; a card shows only the first words.
    subject = started.subject.replace("`", "'")
    return f"{words} · {started.stage} `{' '.join(subject.split())}`"
