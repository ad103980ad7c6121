"""When a checkpoint is due: the rules alone, with a clock that is told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from soapworks.errors import CheckpointError, ResourceError, StoreError
from soapworks.remote import RemoteError
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.settings import WatchOptions
from soapworks.tasks.watch.rules import (
    CheckpointFile,
    CheckpointState,
    Decision,
    decide,
    is_permanent,
    next_attempt,
    retry_delay,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = "ab" * 32
SCORES = LayerSummary(
    layer="norm",
    top_si=0.9,
    top_component=1,
    n_invariant=3,
    invariant_variance_share=0.2,
    n_components=24,
    n_real=9,
    n_synthetic=6,
    key=KEY,
)


def file(fingerprint: str = "a", unchanged_for: float = 1000.0, marker: str = "") -> CheckpointFile:
    return CheckpointFile("step_1.pt", fingerprint, 100, marker, unchanged_for)


def state(status: Any, ago: float = 0.0, **more: Any) -> CheckpointState:
    since = NOW - timedelta(seconds=ago)
    return CheckpointState(path="step_1.pt", fingerprint="a", status=status, since=since, **more)


def decided(seen: CheckpointFile, known: CheckpointState | None, **more: Any) -> Decision:
    here, heads = more.pop("here", True), more.pop("heads", {KEY})
    options = WatchOptions(**more)
    return decide(seen, known, now=NOW, heads=heads, options=options, here=here)


def test_a_new_checkpoint_waits_until_it_stood_unchanged() -> None:
    early = decided(file(unchanged_for=4.0), None, stable_seconds=10)
    assert (early.verdict, early.wait) == ("settling", 6.0)
    assert decided(file(unchanged_for=10.0), None, stable_seconds=10).verdict == "due"


def test_with_its_marker_it_is_due_at_once() -> None:
    assert decided(file(unchanged_for=0, marker="m"), None).verdict == "due"


def test_the_marker_of_an_earlier_content_says_nothing() -> None:
    known = state("scored", marker="m", scores=[SCORES])
    changed = file("b", unchanged_for=0, marker="m")
    assert decided(changed, known).verdict == "settling"
    again = file("b", unchanged_for=0, marker="later")
    assert decided(again, known).verdict == "due"


def test_what_is_scored_is_done_as_long_as_its_heads_are_there() -> None:
    known = state("scored", scores=[SCORES])
    assert decided(file(), known).verdict == "done"
    assert decided(file(), known, heads=set()).verdict == "due"


def test_a_changed_file_starts_afresh_whatever_became_of_the_old_one() -> None:
    for known in (
        state("scored", scores=[SCORES]),
        state("failed", attempts=99),
        state("started", attempts=99),
    ):
        assert decided(file("b"), known).verdict == "due"
        assert decided(file("b", unchanged_for=0), known).verdict == "settling"


def test_an_attempt_that_was_killed_is_taken_up_at_once() -> None:
    assert decided(file(), state("started", attempts=1)).verdict == "due"


def test_what_kills_every_process_is_given_up() -> None:
    known = state("started", attempts=3)
    found = decided(file(), known, max_attempts=3)
    assert found.verdict == "given up"
    assert "ended early" in found.why


@pytest.mark.parametrize(("attempts", "pause"), [(1, 60), (2, 120), (3, 240), (4, 480)])
def test_the_pause_doubles(attempts: int, pause: float) -> None:
    options = {"backoff_seconds": 60, "max_backoff_seconds": 3600}
    early = decided(file(), state("failed", pause - 1, attempts=attempts), **options)
    assert (early.verdict, early.wait) == ("waiting", 1.0)
    late = decided(file(), state("failed", pause, attempts=attempts), **options)
    assert late.verdict == "due"


def test_the_pause_is_bounded() -> None:
    assert retry_delay(7, 60, 600) == 600
    assert retry_delay(10**9, 60, 3600) == 3600


def test_a_failure_dated_in_the_future_blocks_nothing() -> None:
    assert decided(file(), state("failed", -1e6, attempts=1)).verdict == "due"


def test_after_the_last_attempt_it_is_given_up_with_its_reason() -> None:
    known = state("failed", 1e9, attempts=5, reason="out of luck")
    found = decided(file(), known, max_attempts=5)
    assert (found.verdict, found.why) == ("given up", "out of luck (attempt 5)")
    assert decided(file(), known, max_attempts=6).verdict == "due"


def test_a_permanent_fault_is_tried_once_more_only() -> None:
    assert decided(file(), state("failed", 60, attempts=1, permanent=True)).verdict == "due"
    known = state("failed", 1e9, attempts=2, permanent=True)
    assert decided(file(), known).verdict == "given up"


def test_what_lasts_and_what_may_pass() -> None:
    assert is_permanent(CheckpointError("no weights"))
    assert not is_permanent(ResourceError("no room"))
    assert not is_permanent(StoreError("away"))
    assert not is_permanent(RuntimeError("CUDA out of memory"))


def test_a_checkpoint_that_a_disk_or_a_network_withheld_may_be_there_later() -> None:
    error = CheckpointError("cannot be read")
    error.__cause__ = ValueError()
    assert is_permanent(error)
    for cause in (ConnectionResetError(), RemoteError("it was changed while it was read")):
        error.__cause__.__cause__ = cause
        assert not is_permanent(error)


def test_asked_to_try_again_everything_that_failed_is_due() -> None:
    for known in (
        state("failed", 0, attempts=1),
        state("failed", 0, attempts=99, permanent=True),
        state("started", 0, attempts=99),
    ):
        assert decided(file(), known, retry=True).verdict == "due"
    assert decided(file(), state("scored", scores=[SCORES]), retry=True).verdict == "done"


def test_an_event_is_out_until_patience_ends_which_doubles() -> None:
    options = {"here": False, "event_patience": 900.0}
    out = decided(file(), state("announced", 899, announcements=1), **options)
    assert (out.verdict, out.wait) == ("announced", 1.0)
    lost = decided(file(), state("announced", 900, announcements=1), **options)
    assert lost.verdict == "due"
    again = decided(file(), state("announced", 900, announcements=2), **options)
    assert (again.verdict, again.wait) == ("announced", 900.0)


def test_who_scores_itself_takes_what_is_announced() -> None:
    assert decided(file(), state("announced", 0, announcements=1)).verdict == "due"


def test_the_next_attempt_in_words() -> None:
    options = WatchOptions(backoff_seconds=90)
    assert next_attempt(state("failed", attempts=1), options) == "tried again in 0:01:30"
    assert "given up after 5 attempts" in next_attempt(state("failed", attempts=5), options)
