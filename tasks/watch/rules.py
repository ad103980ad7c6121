"""Decide when a checkpoint is to be scored, from what is listed and remembered alone.

Nothing here reads a folder, a store or a clock; ``FORMAT.md`` and ``soapworks watch --help``
describe the same rules.
"""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, field_serializer

from soapworks.errors import (
    CheckpointError,
    HeadError,
    InputError,
    LayerError,
    PrecisionError,
    StalledError,
)
from soapworks.remote import RemoteError
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.settings import Settings, WatchOptions

PERMANENT_ATTEMPTS = 2
"""Attempts allowed for permanent errors: one retry, in case the file was still being written."""

DRAWN = (
    *("layer", "top_si", "top_standard_error", "top_component", "n_invariant"),
    *("invariant_variance_share", "n_components", "n_real", "n_synthetic"),
)
"""Facts of a layer that the curves are drawn from."""

_PERMANENT = CheckpointError | LayerError | InputError | HeadError | PrecisionError | StalledError

Verdict = Literal["due", "settling", "held", "waiting", "announced", "given up", "ignored", "done"]


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint as a listing of the folder shows it."""

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

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    path: str
    """As in :class:`CheckpointFile`."""
    fingerprint: str
    """Of the content that the rest is about."""
    marker: str = ""
    """Identity of the marker of this content: later content needs another."""
    status: Literal["announced", "started", "scored", "failed", "ignored"]
    """``ignored``: a readable file without a backbone, such as an optimizer's state."""
    attempts: int = Field(0, ge=0)
    """Times that scoring this content was started."""
    announcements: int = Field(0, ge=0)
    """Times that the event was emitted since it last became due."""
    since: AwareDatetime
    """When it came into this status."""
    reason: str = ""
    """Why it failed or is ignored: one sentence."""
    permanent: bool = Field(False, alias="lasting")
    """Of a failure: whether the error will not go away by waiting."""
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

    file: CheckpointFile
    verdict: Verdict
    why: str
    """A few words for the log."""
    wait: float | None = None
    """Time after which the verdict may be another, seconds; None where only a change helps."""


def retry_delay(attempts: int, first: float, longest: float) -> float:
    """Return the pause after a number of attempts, seconds: doubled each time, up to a limit."""
    return min(first * 2.0 ** min(max(attempts - 1, 0), 60), longest)


def is_permanent(error: BaseException) -> bool:
    """Return whether an error of a checkpoint will not go away by waiting.

    Bytes that are not what they should be stay so; a disk or a network that fails may recover.
    """
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, OSError | RemoteError):
            return False
        cause = cause.__cause__
    return isinstance(error, _PERMANENT)


def decide(
    file: CheckpointFile,
    state: CheckpointState | None,
    *,
    now: datetime,
    heads: Container[str],
    options: WatchOptions,
    here: bool = True,
) -> Decision:
    """Decide about one checkpoint, live leases aside.

    Parameters
    ----------
    file
        The checkpoint as it is.
    state
        What is remembered of it.
    now
        The time.
    heads
        Keys of the heads that are in the store.
    options
        How it is watched.
    here
        Whether the caller may score a checkpoint that is announced.
    """

    def is_(verdict: Verdict, why: str, wait: float | None = None) -> Decision:
        return Decision(file, verdict, why, wait)

    if state is None or state.fingerprint != file.fingerprint:
        what = "new" if state is None else "changed"
        if file.marker and (state is None or state.marker != file.marker):
            return is_("due", f"{what}, its marker is there")
        left = options.stable_seconds - file.unchanged_for
        if left > 0:
            return is_("settling", f"{what}, may still be written", left)
        return is_("due", what)
    age = (now - state.since).total_seconds()
    if state.status == "scored":
        if all(layer.key in heads for layer in state.scores):
            return is_("done", "scored")
        return is_("due", "scored once, but its heads are gone from the store")
    if state.status == "announced":
        if here:
            return is_("due", "announced")
        longest = max(options.event_patience, options.max_backoff_seconds)
        patience = retry_delay(state.announcements, options.event_patience, longest)
        if not 0 <= age < patience:
            return is_("due", "announced, and no run has scored it")
        return is_("announced", "its event is out", patience - age)
    if options.retry:
        return is_("due", "retry requested")
    reason = state.reason
    if state.status == "ignored":
        return is_("ignored", reason)
    if state.status == "started":
        reason = "the process that scored it ended early"
    if is_given_up(state, options):
        return is_("given up", f"{reason} (attempt {state.attempts})")
    if state.status == "started":
        return is_("due", reason)
    pause = retry_delay(state.attempts, options.backoff_seconds, options.max_backoff_seconds)
    # A date ahead of the clock comes from a wrong clock: it must not block for long.
    if 0 <= age < pause:
        return is_("waiting", reason, pause - age)
    return is_("due", f"attempt {state.attempts + 1}")


def is_given_up(state: CheckpointState, options: WatchOptions) -> bool:
    """Return whether a checkpoint that failed is not tried again."""
    permanent = state.status == "failed" and state.permanent
    allowed = min(PERMANENT_ATTEMPTS, options.max_attempts) if permanent else options.max_attempts
    return state.attempts >= allowed


def next_attempt(state: CheckpointState, options: WatchOptions) -> str:
    """Return in words when a failed checkpoint is tried again."""
    if is_given_up(state, options):
        return (
            f"given up after {state.attempts} attempt{'s' if state.attempts > 1 else ''}; a "
            "changed file, or --retry, starts afresh"
        )
    pause = retry_delay(state.attempts, options.backoff_seconds, options.max_backoff_seconds)
    return f"tried again in {timedelta(seconds=round(pause))}"
