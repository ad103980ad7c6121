"""When a checkpoint is to be scored: the decision alone, from what is seen and remembered.

Nothing here looks at a folder, a store or a clock; the rules are those that ``FORMAT.md`` and
``soapworks watch --help`` tell.
"""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, Field, field_serializer

from soapworks.errors import CheckpointError, HeadError, InputError, LayerError, PrecisionError
from soapworks.remote import RemoteError
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.settings import Settings
from soapworks.tasks.watch_settings import WatchOptions

LASTING_ATTEMPTS = 2
"""Attempts at a checkpoint whose fault will not go away by waiting: one more, in case the first
read what was not yet there as it was to stay."""

DRAWN = (
    *("layer", "top_si", "top_standard_error", "top_component", "n_invariant"),
    *("invariant_variance_share", "n_components", "n_real", "n_synthetic"),
)
"""Facts of a layer that the curves are drawn from."""

Verdict = Literal["due", "settling", "held", "waiting", "announced", "given up", "done"]


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint as a look at the folder found it."""

    path: str
    """Path below the watched folder, POSIX; of a folder in the Hugging Face form the folder's."""
    fingerprint: str
    """Cheap identity that changes whenever the content may have."""
    n_bytes: int
    """Bytes of its weights file."""
    marker: str = ""
    """Cheap identity of its marker; empty where there is none."""
    unchanged_for: float = 0.0
    """Time for which this process has seen it with this fingerprint, seconds."""


class CheckpointState(Settings):
    """What is remembered of a checkpoint: the content of its file in the store."""

    path: str
    """As in :class:`CheckpointFile`."""
    fingerprint: str
    """Of the content that the rest is about."""
    marker: str = ""
    """Identity of the marker that was there then: the same one says nothing of later content."""
    status: Literal["announced", "started", "scored", "failed"]
    attempts: int = Field(0, ge=0)
    """Times that scoring this content was started."""
    announcements: int = Field(0, ge=0)
    """Times that the event was emitted since it last became due."""
    since: AwareDatetime
    """When it came into this status."""
    reason: str = ""
    """Of a failure: one sentence."""
    lasting: bool = False
    """Of a failure: whether waiting will not mend it."""
    digest: str = ""
    """Digest of the tensors, once scored."""
    scores: tuple[LayerSummary, ...] = ()
    """The newest scores; they outlive a change of the content until there are newer ones."""

    @field_serializer("scores")
    def _only_what_is_drawn(self, scores: tuple[LayerSummary, ...]) -> list[dict[str, Any]]:
        return [layer.model_dump(include={*DRAWN, "key"}) for layer in scores]


@dataclass(frozen=True)
class Decision:
    """What is to be done about a checkpoint."""

    sighting: CheckpointFile
    verdict: Verdict
    why: str
    """A few words for people."""
    wait: float | None = None
    """Time after which the verdict may be another, seconds; None where only a change helps."""


def retry_delay(attempts: int, first: float, longest: float) -> float:
    """Return the pause after a number of attempts, seconds: doubled each time, up to a limit."""
    return min(first * 2.0 ** min(max(attempts - 1, 0), 60), longest)


def is_permanent(error: BaseException) -> bool:
    """Return whether waiting will not mend what went wrong with a checkpoint.

    A checkpoint that could not be read because a disk or a network failed is another matter than
    one whose bytes are not what they should be.
    """
    lasting = CheckpointError | LayerError | InputError | HeadError | PrecisionError
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, OSError | RemoteError):
            return False
        cause = cause.__cause__
    return isinstance(error, lasting)


def decide(
    sighting: CheckpointFile,
    arrival: CheckpointState | None,
    *,
    now: datetime,
    held: bool,
    heads: Container[str],
    options: WatchOptions,
    here: bool = True,
) -> Decision:
    """Decide about one checkpoint.

    Parameters
    ----------
    sighting
        The checkpoint as it is.
    arrival
        What is remembered of it.
    now
        The time.
    held
        Whether another process holds its lease.
    heads
        Keys of the heads that are in the store.
    options
        How it is watched.
    here
        Whether a checkpoint that is announced may be scored by who asks.
    """

    def is_(verdict: Verdict, why: str, wait: float | None = None) -> Decision:
        return Decision(sighting, verdict, why, wait)

    if arrival is None or arrival.fingerprint != sighting.fingerprint:
        what = "new" if arrival is None else "changed"
        if sighting.marker and (arrival is None or arrival.marker != sighting.marker):
            return is_("held" if held else "due", f"{what}, its marker is there")
        left = options.stable_seconds - sighting.unchanged_for
        if left > 0:
            return is_("settling", f"{what}, may still be written", left)
        return is_("held" if held else "due", what)
    if held:
        return is_("held", "another process is at it")
    age = (now - arrival.since).total_seconds()
    if arrival.status == "scored":
        if all(one.key in heads for one in arrival.scores):
            return is_("done", "scored")
        return is_("due", "scored once, but its heads are gone from the store")
    if arrival.status == "announced":
        longest = max(options.event_patience, options.max_backoff_seconds)
        patience = retry_delay(arrival.announcements, options.event_patience, longest)
        if here or not 0 <= age < patience:
            return is_("due", "announced" if here else "announced, and nobody took it up")
        return is_("announced", "its event is out", patience - age)
    if options.retry:
        return is_("due", "asked to try again")
    reason = arrival.reason
    if arrival.status == "started":
        reason = "the process that scored it ended before it was done"
    if arrival.attempts >= _allowed(arrival, options):
        return is_("given up", f"{reason} (attempt {arrival.attempts})")
    if arrival.status == "started":
        return is_("due", reason)
    pause = retry_delay(arrival.attempts, options.backoff_seconds, options.max_backoff_seconds)
    # A date ahead of the clock was written by one that goes wrong: it must not block for long.
    if 0 <= age < pause:
        return is_("waiting", reason, pause - age)
    return is_("due", f"attempt {arrival.attempts + 1}")


def after_failure(
    arrival: CheckpointState, error: BaseException, sentence: str, *, now: datetime
) -> CheckpointState:
    """Return what is remembered once an attempt has failed."""
    return arrival.model_copy(
        update={
            "status": "failed",
            "since": now,
            "reason": " ".join(sentence.split())[:1000],
            "lasting": is_permanent(error),
        }
    )


def outlook_of(arrival: CheckpointState, options: WatchOptions) -> str:
    """Return in words when a failed checkpoint is tried again."""
    if arrival.attempts >= _allowed(arrival, options):
        return (
            f"given up after {arrival.attempts} attempt{'s' if arrival.attempts > 1 else ''}; a "
            "changed file, or --retry, starts afresh"
        )
    pause = retry_delay(arrival.attempts, options.backoff_seconds, options.max_backoff_seconds)
    return f"tried again in {timedelta(seconds=round(pause))}"


def _allowed(arrival: CheckpointState, options: WatchOptions) -> int:
    lasting = arrival.status == "failed" and arrival.lasting
    return min(LASTING_ATTEMPTS, options.max_attempts) if lasting else options.max_attempts
