"""Process a checkpoint that is due: score or announce it, once, and remember the outcome.

The state is written before the work as well as after it, under the checkpoint's lease, so another
process goes on where one is killed. :class:`WatchCallbacks` score and notify: nothing here knows
Prefect.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from soapworks.errors import InputError, NotACheckpointError
from soapworks.remote import RemoteError, drop_copy, is_url, names_in
from soapworks.storage_schemas.layout.layer_summary import LayerSummary, figure
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.plan.models import is_of_one_model
from soapworks.tasks.watch.claim import claim
from soapworks.tasks.watch.rules import (
    CheckpointFile,
    CheckpointState,
    is_given_up,
    next_attempt,
)
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import Clock, Survey


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
    with claim(watch, file, clock) as claimed:
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


def _drop_copies(checkpoint: str) -> None:
    """Delete the local copies of a checkpoint: a training run's would fill this machine's disk."""
    if is_url(checkpoint):
        with suppress(RemoteError, InputError):
            for name in ("", *(f"/{name}" for name in names_in(checkpoint))):
                drop_copy(checkpoint + name)
