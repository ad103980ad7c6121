"""Progress in Prefect's pages: a listener that keeps a progress artifact per running stage.

A second thread talks to the server, so a slow one delays nothing and a dead one fails nothing.
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

SECONDS = 2.0
"""Shortest time between two calls about the same stage."""

PATIENCE = 5.0
"""Longest wait for the last calls at the end, seconds."""

logger = logging.getLogger(__name__)


@contextmanager
def showing_progress_artifacts(*, seconds: float = SECONDS) -> Iterator[None]:
    """Show the progress of stages inside the block, in the run that each of them belongs to.

    Parameters
    ----------
    seconds
        Shortest time between two calls about the same stage.
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
    """A stage that is under way."""

    started: StageStarted
    done: int = 0
    told_at: float = -math.inf
    artifact: "Future[UUID] | None" = None
    last: "Future[Any] | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class ArtifactListener:
    """Creates a progress artifact when a stage starts, and moves it on now and then.

    Events may come from several threads. After the first call that fails it says so once and
    calls no more.

    Parameters
    ----------
    client
        Of the server.
    seconds
        Shortest time between two calls about the same stage.
    """

    def __init__(self, client: SyncPrefectClient, seconds: float = SECONDS) -> None:
        self._client, self._seconds = client, seconds
        self._running: dict[tuple[str, str], _Running] = {}
        self._calls: set[Future[Any]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="progress-artifacts")
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Take an event."""
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
                    self._tell(running, 100.0, f"{total:,} {unit} in {event.seconds:,.1f} s")

    def drain(self) -> None:
        """Wait a little for the calls that are under way."""
        wait(list(self._calls), timeout=PATIENCE)

    def close(self) -> None:
        """Wait a little for the calls that are under way, and drop those that have not begun."""
        self.drain()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self, event: StageStarted) -> None:
        running = _Running(event, told_at=time.monotonic())
        self._running[event.stage, event.subject] = running
        words = _described(event, f"{event.total:,} {event.unit}")
        running.artifact = self._call(create_progress_artifact, 0.0, description=words)

    def _advance(self, running: _Running, n: int) -> None:
        started = running.started
        with running.lock:
            running.done += n
            now = time.monotonic()
            busy = running.last is not None and not running.last.done()
            if busy or now - running.told_at < self._seconds:
                return
            running.told_at = now
            done = running.done
        share = 100.0 * min(done / started.total, 1.0) if started.total else 0.0
        self._tell(running, share, f"{done:,} of {started.total:,} {started.unit}")

    def _tell(self, running: _Running, percent: float, words: str) -> None:
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
        # In the context of who emits the event: the artifact is that run's. And a call without
        # the settings that are in force here would make Prefect start a server of its own.
        run = contextvars.copy_context().run
        with suppress(RuntimeError):  # closed meanwhile
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
        except Exception as error:  # noqa: BLE001 - progress is for the eye; work goes on
            self._failed = True
            logger.warning("progress is no longer shown in Prefect: %s", error)
            return None


def _described(started: StageStarted, words: str) -> str:
    # Descriptions are markdown, and names of files are not; a card shows the first words alone.
    subject = started.subject.replace("`", "'")
    return f"{words} · {started.stage} `{' '.join(subject.split())}`"
