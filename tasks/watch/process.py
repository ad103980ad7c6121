"""Process a checkpoint that is due: score or announce it, once, and remember the outcome.

The state is written before the work as well as after it, under the checkpoint's lease, so another
process goes on where one is killed. :class:`WatchCallbacks` score and notify: nothing here knows
Prefect.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from soapworks.errors import InputError, NotACheckpointError, StoreError
from soapworks.images.listing import open_folder
from soapworks.names import one_line
from soapworks.remote import RemoteError, drop_copy, is_url, names_in
from soapworks.storage_schemas.layout.layer_summary import LayerSummary, figure
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import read_product
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.inputs.images import known_images
from soapworks.tasks.maintenance.retention import weights_of
from soapworks.tasks.plan.models import is_of_one_model
from soapworks.tasks.watch.listing import list_checkpoints
from soapworks.tasks.watch.rules import (
    CheckpointFile,
    CheckpointState,
    Decision,
    decide,
    is_given_up,
    is_permanent,
    next_attempt,
)
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import Clock, Survey, heads_of, now_by


@dataclass(frozen=True)
class Outcome:
    """The outcome for a checkpoint that was due."""

    path: str
    """Path below the watched folder."""
    checkpoint: str
    """Identifier under which it is scored."""
    outcome: Literal["scored", "failed", "ignored", "announced", "left"]
    """``left``: another process scores it, or it changed or vanished meanwhile; ``ignored``: it has
    no backbone."""
    why: str = ""
    """Of a failure: the reason, and when it is tried again; why one was left."""
    attempts: int = 0
    scores: tuple[LayerSummary, ...] = ()


class WatchCallbacks(Protocol):
    """Scoring and notifications, given by the caller."""

    def score(self, checkpoint: str) -> Sequence[LayerSummary]:
        """Score a checkpoint; return its layers, or raise its error."""

    def user_message(self, error: BaseException) -> str:
        """Return the user-facing message of an exception."""

    def notify(self, what: Literal["arrived", "scored", "failed"], state: CheckpointState) -> None:
        """Notify listeners of a checkpoint's new state."""

    def draw(self) -> None:
        """Bring the curves up to date."""


def process_due(
    watch: Watch, found: Survey, callbacks: WatchCallbacks, *, clock: Clock = time
) -> list[Outcome]:
    """Process all checkpoints that are due.

    Raises
    ------
    SoapworksError
        An error of more than one checkpoint: of the folder, the store, the images, the engine. The
        checkpoint at hand is put back and waits for the next round.
    """
    outcomes = []
    for decision in found.of("due"):
        outcome = process_checkpoint(watch, decision.file, callbacks, clock=clock)
        outcomes.append(outcome)
        if outcome.outcome == "scored":
            callbacks.draw()
    if not any(outcome.outcome == "scored" for outcome in outcomes):
        callbacks.draw()  # the process that scored last may have been killed before it could draw
    return outcomes


def process_checkpoint(
    watch: Watch, file: CheckpointFile, callbacks: WatchCallbacks, *, clock: Clock = time
) -> Outcome:
    """Score or announce one checkpoint, unless another process does or has done it."""
    path, identifier = file.path, watch.checkpoint(file.path)
    with _claim(watch, file, clock) as claimed:
        if claimed is None:
            return Outcome(path, identifier, "left", "another process scores it")
        if watch.watching.start != "here":
            state = claimed.announce()
            callbacks.notify("arrived", state)
            emit(Notice(f"{path}: {claimed.why}; event emitted"))
            return Outcome(path, identifier, "announced", attempts=state.attempts)
        state = claimed.start()
        if state.attempts == 1 and not state.announcements:
            callbacks.notify("arrived", state)
        emit(Notice(f"{path}: {claimed.why}; scoring (attempt {state.attempts})"))
        try:
            layers = callbacks.score(identifier)
        except Exception as error:
            if not is_of_one_model(error):
                claimed.put_back()
                raise
            claimed.raise_if_images_are_to_blame(error)
            if not claimed.is_unchanged():
                claimed.put_back()
                emit(Notice(f"{path}: {(why := 'changed or vanished meanwhile')}"))
                return Outcome(path, identifier, "left", why)
            if isinstance(error, NotACheckpointError):
                why = claimed.ignored(callbacks.user_message(error)).reason
                _drop_copies(identifier)
                emit(Notice(f"{path}: ignored: {why}"))
                return Outcome(path, identifier, "ignored", why, state.attempts)
            state = claimed.failed(error, callbacks.user_message(error))
            if is_given_up(state, watch.watching):
                _drop_copies(identifier)
            why = f"{state.reason.rstrip('.')}; {next_attempt(state, watch.watching)}"
            emit(Notice(f"{path}: failed (attempt {state.attempts}): {why}"))
            callbacks.notify("failed", state)
            return Outcome(path, identifier, "failed", why, state.attempts)
        except BaseException:
            claimed.put_back()
            raise
        state = claimed.scored(layers)
        _drop_copies(identifier)
        best, last = max(layers, key=lambda layer: layer.order), layers[-1]
        cached = ", all in the store already" if all(layer.cached for layer in layers) else ""
        emit(
            Notice(
                f"{path}: scored, top SI {figure(best.top_si)} at {best.layer}, last layer "
                f"{figure(last.top_si)}{cached}"
            )
        )
        callbacks.notify("scored", state)
        return Outcome(path, identifier, "scored", attempts=state.attempts, scores=state.scores)


class ClaimedCheckpoint:
    """A checkpoint whose lease this process holds; each step is remembered at once."""

    def __init__(
        self,
        watch: Watch,
        decision: Decision,
        before: CheckpointState | None,
        lease: leases.Lease,
        clock: Clock,
    ) -> None:
        self.why = decision.why
        self._watch, self._lease, self._clock = watch, lease, clock
        file = decision.file
        same = before is not None and before.fingerprint == file.fingerprint
        self._before = before if same else None
        self._state = CheckpointState(
            path=file.path,
            fingerprint=file.fingerprint,
            marker=file.marker,
            status="announced",
            attempts=before.attempts if before and same and not watch.watching.retry else 0,
            announcements=before.announcements if before and same else 0,
            since=now_by(clock),
            reason=before.reason if before and same else "",
            scores=before.scores if before else (),
        )

    def announce(self) -> CheckpointState:
        """Remember that its event goes out."""
        repeated = self._before is not None and self._before.status == "announced"
        again = self._state.announcements if repeated else 0
        return self._remember(status="announced", announcements=again + 1)

    def start(self) -> CheckpointState:
        """Remember that an attempt begins."""
        return self._remember(status="started", attempts=self._state.attempts + 1)

    def scored(self, layers: Sequence[LayerSummary]) -> CheckpointState:
        """Remember its scores."""
        return self._remember(
            status="scored",
            announcements=0,
            reason="",
            permanent=False,
            digest=_digest(layers[0]),
            scores=tuple(layers),
        )

    def failed(self, error: BaseException, message: str) -> CheckpointState:
        """Remember why it failed."""
        return self._remember(
            status="failed",
            announcements=0,
            reason=_reason(message),
            permanent=is_permanent(error),
        )

    def ignored(self, message: str) -> CheckpointState:
        """Remember that it has no backbone, and why."""
        return self._remember(status="ignored", announcements=0, reason=_reason(message), scores=())

    def put_back(self) -> None:
        """Undo an attempt that ended for no reason of the checkpoint's."""
        # Where the store fails too, the attempt counts, and the first error is the one raised.
        with suppress(StoreError):
            if self._before is not None:
                self._write(self._before)
            else:
                # As if never seen: due in the next survey, without a wait.
                self._remember(status="started", attempts=self._state.attempts - 1)

    def raise_if_images_are_to_blame(self, error: Exception) -> None:
        """Put the checkpoint back and raise, where the error is one of the images.

        Raises
        ------
        InputError
            There are no images, or too many that cannot be read.
        """
        watch = self._watch
        try:
            open_folder(watch.images).list()
            # They are indexed first: not all known by now means that scoring got no further.
            if isinstance(error, InputError) and (
                known_images(watch.store, watch.images, watch.settings) is None
            ):
                raise error
        except Exception:
            self.put_back()
            raise

    def is_unchanged(self) -> bool:
        """Return whether the checkpoint is there as it was when it was claimed."""
        try:
            files = list_checkpoints(self._watch.folder)
        except Exception:
            self.put_back()
            raise
        claimed = (self._state.path, self._state.fingerprint)
        return any((file.path, file.fingerprint) == claimed for file in files)

    def _remember(self, **changes: Any) -> CheckpointState:
        self._state = self._state.model_copy(update={**changes, "since": now_by(self._clock)})
        self._write(self._state)
        return self._state

    def _write(self, state: CheckpointState) -> None:
        self._lease.check()  # the process that took over writes the outcome
        self._watch.write(state)


@contextmanager
def _claim(watch: Watch, file: CheckpointFile, clock: Clock) -> Iterator[ClaimedCheckpoint | None]:
    """Hold the lease on a checkpoint inside the block; None where it is not, or no longer, due."""
    lease = leases.acquire(watch.address(file.path), watch.store.lease_seconds)
    if lease is None:
        yield None
        return
    try:
        # Between survey and lease another process may have scored it.
        state = watch.read(file.path)
        decision = decide(
            file,
            state,
            now=now_by(clock),
            heads=heads_of(watch, {} if state is None else {file.path: state}),
            options=watch.watching,
            here=watch.watching.start == "here",
        )
        due = decision.verdict == "due"
        yield ClaimedCheckpoint(watch, decision, state, lease, clock) if due else None
    finally:
        lease.release()


def _drop_copies(checkpoint: str) -> None:
    """Delete the local copies of a checkpoint: a training run's would fill this machine's disk."""
    if is_url(checkpoint):
        with suppress(RemoteError, InputError):
            for name in ("", *(f"/{name}" for name in names_in(checkpoint))):
                drop_copy(checkpoint + name)


def _reason(message: str) -> str:
    return " ".join(one_line(message).split())[:1000]


def _digest(layer: LayerSummary) -> str:
    """Return the digest of the tensors that were scored, from a head's recipe."""
    product = read_product(Location.parse(layer.head))
    return (weights_of(product.recipe) or "") if product is not None else ""
