"""Take a checkpoint that is due: score or announce it, once, and remember what became of it.

What is remembered is written before the work as well as after it, under the checkpoint's lease, so
a process that is killed leaves its mark and another goes on. Who scores and tells is given
(:class:`WatchCallbacks`): nothing here knows Prefect.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from soapworks.errors import InputError, StoreError
from soapworks.images.listing import open_folder
from soapworks.remote import drop_copy, is_url
from soapworks.storage_schemas.layout.layer_summary import LayerSummary, figure
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import read_product
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.inputs.images import known_images
from soapworks.tasks.maintenance.retention import weights_of
from soapworks.tasks.plan.models import is_of_one_model
from soapworks.tasks.watch.listing import CONFIG_NAME, WEIGHTS_NAMES, list_checkpoints
from soapworks.tasks.watch.rules import (
    CheckpointFile,
    CheckpointState,
    Decision,
    after_failure,
    outlook_of,
)
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import Clock, Survey, decide_about, heads_of, now_by


@dataclass(frozen=True)
class Outcome:
    """What became of a checkpoint that was due."""

    path: str
    """Path below the watched folder."""
    checkpoint: str
    """Identifier under which it is scored."""
    outcome: Literal["scored", "failed", "announced", "left"]
    """``left``: another process is at it, or it changed or went away meanwhile."""
    why: str = ""
    """Of a failure: the reason, and when it is tried again; why one was left."""
    attempts: int = 0
    scores: tuple[LayerSummary, ...] = ()


class WatchCallbacks(Protocol):
    """Who scores, and who is told."""

    def score(self, checkpoint: str) -> Sequence[LayerSummary]:
        """Score a checkpoint; return its layers, or raise what went wrong with it."""

    def user_message(self, error: BaseException) -> str:
        """Return what a person is told of an error."""

    def tell(self, what: Literal["arrived", "scored", "failed"], arrival: CheckpointState) -> None:
        """Tell whoever listens what happened to a checkpoint."""

    def draw(self) -> None:
        """Bring the curves up to date."""


def take_due(
    watch: Watch, outlook: Survey, duties: WatchCallbacks, *, clock: Clock = time
) -> list[Outcome]:
    """Do what is due; return what became of each.

    Raises
    ------
    SoapworksError
        What is not the matter of one checkpoint: the folder, the store, the photographs, the
        engine. What was begun is put back and waits for the next round.
    """
    outcomes = []
    for decision in outlook.of("due"):
        outcome = take(watch, decision.sighting, duties, clock=clock)
        outcomes.append(outcome)
        if outcome.outcome == "scored":
            duties.draw()
    if not any(outcome.outcome == "scored" for outcome in outcomes):
        duties.draw()  # whoever scored last may have been killed before it could draw
    return outcomes


def take(
    watch: Watch,
    sighting: CheckpointFile,
    duties: WatchCallbacks,
    *,
    clock: Clock = time,
    here: bool | None = None,
) -> Outcome:
    """Score or announce one checkpoint, unless another process does or has done it.

    Parameters
    ----------
    watch, sighting
        The checkpoint.
    duties
        Who scores and who is told.
    clock
        The clock.
    here
        Whether it is scored here; by default as the watch's options say.
    """
    here = watch.watching.start == "here" if here is None else here
    checkpoint = watch.checkpoint(sighting.path)
    with _taken(watch, sighting, clock, here=here) as taken:
        if taken is None:
            return Outcome(sighting.path, checkpoint, "left", "another process is at it")
        if not here:
            arrival = taken.announce()
            duties.tell("arrived", arrival)
            emit(Notice(f"{sighting.path}: {taken.why}; event emitted"))
            return Outcome(sighting.path, checkpoint, "announced", attempts=arrival.attempts)
        arrival = taken.start()
        if arrival.attempts == 1 and not arrival.announcements:
            duties.tell("arrived", arrival)
        emit(Notice(f"{sighting.path}: {taken.why}; scoring (attempt {arrival.attempts})"))
        try:
            layers = duties.score(checkpoint)
        except Exception as error:
            if not is_of_one_model(error):
                taken.put_back()
                raise
            taken.put_back_if_photographs_are_to_blame(error)
            if not taken.still_is():
                taken.put_back()
                emit(Notice(f"{sighting.path}: {(why := 'changed or went away meanwhile')}"))
                return Outcome(sighting.path, checkpoint, "left", why)
            arrival = taken.failed(error, duties.user_message(error))
            why = f"{arrival.reason.rstrip('.')}; {outlook_of(arrival, watch.watching)}"
            emit(Notice(f"{sighting.path}: failed (attempt {arrival.attempts}): {why}"))
            duties.tell("failed", arrival)
            return Outcome(sighting.path, checkpoint, "failed", why, arrival.attempts)
        except BaseException:
            taken.put_back()
            raise
        arrival = taken.scored(layers)
        drop_copies(checkpoint)
        best, last = max(layers, key=lambda layer: layer.order), layers[-1]
        passes = ", all in the store already" if all(layer.cached for layer in layers) else ""
        emit(
            Notice(
                f"{sighting.path}: scored, top SI {figure(best.top_si)} at {best.layer}, last "
                f"layer {figure(last.top_si)}{passes}"
            )
        )
        duties.tell("scored", arrival)
        return Outcome(
            sighting.path, checkpoint, "scored", attempts=arrival.attempts, scores=arrival.scores
        )


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
        self._watch, self._before, self._lease, self._clock = watch, before, lease, clock
        sighting = decision.sighting
        same = before is not None and before.fingerprint == sighting.fingerprint
        self._arrival = CheckpointState(
            path=sighting.path,
            fingerprint=sighting.fingerprint,
            marker=sighting.marker,
            status="announced",
            attempts=before.attempts if before and same and not watch.watching.retry else 0,
            announcements=before.announcements if before and same else 0,
            since=now_by(clock),
            reason=before.reason if before and same else "",
            scores=before.scores if before else (),
        )

    def announce(self) -> CheckpointState:
        """Remember that its event goes out."""
        again = self._arrival.announcements if self._was("announced") else 0
        return self._remember(status="announced", announcements=again + 1)

    def start(self) -> CheckpointState:
        """Remember that an attempt begins."""
        return self._remember(status="started", attempts=self._arrival.attempts + 1)

    def scored(self, layers: Sequence[LayerSummary]) -> CheckpointState:
        """Remember its scores."""
        return self._remember(
            status="scored",
            announcements=0,
            reason="",
            lasting=False,
            digest=_digest(layers[0]),
            scores=tuple(layers),
        )

    def failed(self, error: BaseException, sentence: str) -> CheckpointState:
        """Remember what went wrong."""
        return self._remember(
            **after_failure(self._arrival, error, sentence, now=now_by(self._clock)).model_dump(
                include={"status", "reason", "lasting"}
            ),
            announcements=0,
        )

    def put_back(self) -> None:
        """Take an attempt back that ended for no reason of the checkpoint's."""
        # Where the store fails too, the attempt counts; what is raised is what went wrong first.
        with suppress(StoreError):
            if self._before is not None and self._before.fingerprint == self._arrival.fingerprint:
                self._write(self._before)
            else:
                # As good as never seen: due at the next look, without a wait.
                self._remember(status="started", attempts=self._arrival.attempts - 1)

    def put_back_if_photographs_are_to_blame(self, error: Exception) -> None:
        """Raise what is wrong with the photographs, if that is why scoring failed.

        Raises
        ------
        InputError
            There are none, or too many that cannot be read.
        """
        watch = self._watch
        try:
            open_folder(watch.images).list()
            # They come first: where they are not all known by now, they are as far as it went.
            refused = isinstance(error, InputError) and (
                known_images(watch.store, watch.images, watch.settings) is None
            )
        except Exception:
            self.put_back()
            raise
        if refused:
            self.put_back()
            raise error

    def still_is(self) -> bool:
        """Return whether the checkpoint is there as it was when it was taken."""
        return any(
            (one.path, one.fingerprint) == (self._arrival.path, self._arrival.fingerprint)
            for one in list_checkpoints(self._watch.folder)
        )

    def _was(self, status: str) -> bool:
        before = self._before
        same = before is not None and before.fingerprint == self._arrival.fingerprint
        return same and before is not None and before.status == status

    def _remember(self, **changes: Any) -> CheckpointState:
        self._arrival = self._arrival.model_copy(update={**changes, "since": now_by(self._clock)})
        self._write(self._arrival)
        return self._arrival

    def _write(self, arrival: CheckpointState) -> None:
        self._lease.check()  # who took over writes what became of it
        self._watch.write(arrival)


@contextmanager
def _taken(
    watch: Watch, sighting: CheckpointFile, clock: Clock, *, here: bool
) -> Iterator[ClaimedCheckpoint | None]:
    """Hold the lease on a checkpoint inside the block; None where it is not, or no longer, due."""
    address = watch.address(sighting.path)
    lease = leases.acquire(address, watch.store.lease_seconds)
    if lease is None:
        yield None
        return
    try:
        # Between the look and the lease another process may have come and gone.
        arrival = watch.read(sighting.path)
        heads = heads_of(watch, {} if arrival is None else {sighting.path: arrival})
        decision = decide_about(watch, sighting, arrival, clock, heads, here=here)
        due = decision.verdict == "due"
        yield ClaimedCheckpoint(watch, decision, arrival, lease, clock) if due else None
    finally:
        lease.release()


def drop_copies(checkpoint: str) -> None:
    """Delete what was fetched of a checkpoint: a training run's would fill this machine's disk."""
    if is_url(checkpoint):
        for name in ("", *(f"/{name}" for name in (*WEIGHTS_NAMES, CONFIG_NAME))):
            drop_copy(checkpoint + name)


def _digest(layer: LayerSummary) -> str:
    """Return the digest of the tensors that were scored: it stands in the head's recipe."""
    product = read_product(Location.parse(layer.head))
    return (weights_of(product.recipe) or "") if product is not None else ""
