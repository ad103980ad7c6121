"""Checkpoints are scored once, whoever watches and whatever happens, and all is remembered."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from soapworks.errors import (
    CheckpointError,
    InputError,
    NotACheckpointError,
    StoreError,
    UnreachableError,
)
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.leasing.lease_state import read_lease
from soapworks.tasks import run as stages
from soapworks.tasks.events import Event, Notice
from soapworks.tasks.executors.child import call_in_child
from soapworks.tasks.plan.request import IndexRequest
from tests.small import write_photographs
from tests.tasks.watchers import Clock, WatchCallbacks, Watcher, make_watch


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photographs", 1)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(place: Path, clock: Clock) -> Watcher:
    return Watcher(make_watch(place), clock)


def save(place: Path, name: str, content: str = "weights") -> Path:
    path = place / "checkpoints" / name
    path.write_text(content)
    return path


def test_a_new_checkpoint_is_scored_after_two_looks(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt")
    (outcome,) = watcher.round()
    assert (outcome.outcome, watcher.clock.slept) == ("scored", [10.0])
    assert watcher.callbacks.notified == [("arrived", "step_1.pt", 1), ("scored", "step_1.pt", 1)]
    assert watcher.verdicts() == {"step_1.pt": "done"}


def test_one_that_grows_is_left_alone_until_it_stops(place: Path, watcher: Watcher) -> None:
    growing = save(place, "step_1.pt")
    watcher.clock.meanwhile = lambda: growing.write_text(growing.read_text() + "more")
    assert watcher.round() == watcher.round() == []
    watcher.clock.meanwhile = lambda: None
    assert [one.outcome for one in watcher.round()] == ["scored"]


def test_its_marker_ends_the_wait(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt")
    save(place, "step_1.pt.done", "")
    assert [one.outcome for one in watcher.round()] == ["scored"]
    assert watcher.clock.slept == []


def test_another_process_finds_it_done(place: Path, watcher: Watcher, clock: Clock) -> None:
    save(place, "step_1.pt")
    watcher.round()
    later = Watcher(make_watch(place), clock)
    assert later.round() == []
    assert later.callbacks.scored == []


def test_other_settings_are_another_watch(place: Path, watcher: Watcher, clock: Clock) -> None:
    save(place, "step_1.pt")
    watcher.round()
    write_photographs(place / "others", 1)
    watch = watcher.watch
    for other in (
        type(watch).of(watch.folder.url, str(place / "others"), options=watch.options),
        type(watch).of(watch.folder.url, watch.images, "vit", options=watch.options),
    ):
        assert [one.outcome for one in Watcher(other, clock).round()] == ["scored"]


def test_a_changed_file_is_scored_anew(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt")
    watcher.round()
    save(place, "step_1.pt", "other weights")
    assert [one.outcome for one in watcher.round()] == ["scored"]
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert (known.attempts, known.scores[0].n_invariant) == (1, len("other weights"))


def test_heads_that_are_gone_are_made_again(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt")
    watcher.round()
    (watcher.watch.store.location / "heads").delete()
    assert [one.outcome for one in watcher.round()] == ["scored"]


def test_failures_are_remembered_and_back_off(place: Path, watcher: Watcher, clock: Clock) -> None:
    save(place, "step_1.pt", "bad")
    save(place, "step_2.pt")
    assert [one.outcome for one in watcher.round()] == ["failed", "scored"]
    assert watcher.callbacks.notified[1] == ("failed", "step_1.pt", 1)
    known = Watcher(make_watch(place), clock).watch.read("step_1.pt")
    assert known is not None
    assert (known.status, known.attempts, known.reason) == ("failed", 1, "out of luck")
    pauses = []
    while watcher.verdicts()["step_1.pt"] != "given up":
        (decision,) = watcher.survey().of("waiting")
        pauses.append(decision.wait)
        clock.now += decision.wait or 0
        assert [one.outcome for one in watcher.round()] == ["failed"]
    assert pauses == [60, 120, 240, 480]
    assert watcher.callbacks.scored.count("step_1.pt") == 5


def test_a_fault_of_the_checkpoint_itself_is_tried_twice(place: Path, clock: Clock) -> None:
    watcher = Watcher(make_watch(place), clock, CheckpointError("holds no weights"))
    save(place, "step_1.pt", "bad")
    assert "tried again in 0:01:00" in watcher.round()[0].why
    clock.now += 60
    assert "given up after 2 attempts" in watcher.round()[0].why
    assert watcher.verdicts() == {"step_1.pt": "given up"}


@pytest.fixture
def without_backbone(place: Path, clock: Clock) -> Watcher:
    save(place, "trainer.pt", "bad")
    return Watcher(make_watch(place), clock, NotACheckpointError("holds\x1b[2J no tensors"))


def test_a_file_without_a_backbone_is_ignored_not_retried(
    place: Path, without_backbone: Watcher, clock: Clock
) -> None:
    watcher = without_backbone
    (outcome,) = watcher.round()
    assert (outcome.outcome, outcome.why) == ("ignored", "holds\\x1b[2J no tensors")
    assert watcher.callbacks.notified == [("arrived", "trainer.pt", 1)]
    clock.now += 1e7
    assert watcher.round() == []
    assert watcher.verdicts() == {"trainer.pt": "ignored"}
    state = json.loads((watcher.watch.address("trainer.pt") / "state.json").read_bytes())
    assert (state["format"], state["status"]) == (1, "ignored")
    assert state["reason"] == outcome.why


def test_what_is_ignored_is_read_again_once_it_changes_or_on_request(
    place: Path, without_backbone: Watcher, clock: Clock
) -> None:
    without_backbone.round()
    again = Watcher(make_watch(place, retry=True), clock, without_backbone.callbacks.fault)
    assert [one.outcome for one in again.round()] == ["ignored"]
    save(place, "trainer.pt", "weights")
    assert [one.outcome for one in without_backbone.round()] == ["scored"]


def test_a_folder_that_vanishes_while_a_checkpoint_fails_costs_no_attempt(
    place: Path, watcher: Watcher
) -> None:
    save(place, "step_1.pt", "bad")
    folder = place / "checkpoints"

    def vanish(_: str) -> None:
        folder.rename(place / "elsewhere")
        watcher.callbacks.fault = CheckpointError("is gone")
        raise watcher.callbacks.fault

    watcher.callbacks.before = vanish
    with pytest.raises(InputError, match="there is no folder"):
        watcher.round()
    (place / "elsewhere").rename(folder)
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert known.attempts == 0
    assert watcher.verdicts() == {"step_1.pt": "due"}


def test_one_that_is_replaced_while_it_is_scored_is_scored_again(
    place: Path, watcher: Watcher
) -> None:
    path = save(place, "step_1.pt")

    def replace(_: str) -> None:
        path.write_text("later weights")
        watcher.callbacks.before = lambda _: None

    watcher.callbacks.before = replace
    assert [one.outcome for one in watcher.round()] == ["scored"]
    assert [one.outcome for one in watcher.round()] == ["scored"]
    assert watcher.verdicts() == {"step_1.pt": "done"}


def test_a_clock_that_goes_back_blocks_nothing(place: Path, watcher: Watcher, clock: Clock) -> None:
    save(place, "step_1.pt", "bad")
    watcher.round()
    wall = clock.now - 1e8
    clock.time = lambda: wall  # type: ignore[method-assign]
    assert [one.outcome for one in watcher.round()] == ["failed"]


def test_a_fixed_file_is_scored_at_once(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt", "bad")
    watcher.round()
    save(place, "step_1.pt", "good")
    (outcome,) = watcher.round()
    assert (outcome.outcome, outcome.attempts) == ("scored", 1)


def test_the_reason_is_kept_in_one_line(place: Path, clock: Clock) -> None:
    watcher = Watcher(make_watch(place), clock, CheckpointError("no\n weights"))
    save(place, "step_1.pt", "bad")
    watcher.round()
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert (known.reason, known.permanent) == ("no weights", True)
    assert known.since == datetime.fromtimestamp(clock.now, UTC)
    file = watcher.watch.address("step_1.pt") / "state.json"
    assert json.loads(file.read_bytes())["lasting"] is True


@pytest.mark.parametrize("before", ["new", "failed", "announced", "scored"])
def test_a_checkpoint_under_a_live_lease_is_left_to_its_holder(
    place: Path, watcher: Watcher, clock: Clock, before: str
) -> None:
    save(place, "step_1.pt", "bad" if before == "failed" else "weights")
    if before != "new":
        start = "event" if before == "announced" else "here"
        Watcher(make_watch(place, start=start), clock).round()
        clock.now += 1e5
    with leases.held(watcher.watch.address("step_1.pt"), 60.0):
        verdict = "done" if before == "scored" else "held"
        assert watcher.verdicts() == {"step_1.pt": verdict}


def test_asked_to_try_again_it_starts_afresh(place: Path, watcher: Watcher, clock: Clock) -> None:
    save(place, "step_1.pt", "bad")
    watcher.round()
    again = Watcher(make_watch(place, retry=True), clock)
    (outcome,) = again.round()
    assert (outcome.outcome, outcome.attempts) == ("failed", 1)


def test_a_file_that_changes_while_it_fails_has_not_failed(place: Path, watcher: Watcher) -> None:
    late = save(place, "step_1.pt", "bad")
    gone = save(place, "step_2.pt", "bad")

    def meanwhile(checkpoint: str) -> None:
        late.write_text("bad, and more")
        gone.unlink()

    watcher.callbacks.before = meanwhile
    # The second is gone before its turn, and what cannot be read then is no failure either.
    assert [one.outcome for one in watcher.round()] == ["left", "left"]
    assert [what for what, *_ in watcher.callbacks.notified] == ["arrived", "arrived"]
    assert watcher.verdicts() == {"step_1.pt": "due"}


def test_photographs_that_go_away_are_not_the_checkpoints_fault(
    place: Path, watcher: Watcher
) -> None:
    save(place, "step_1.pt", "bad")
    watcher.callbacks.before = lambda _: (
        (place / "photographs").rename(place / "elsewhere") and None
    )
    with pytest.raises(InputError, match="photographs"):
        watcher.round()
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert known.attempts == 0
    assert watcher.verdicts() == {"step_1.pt": "due"}


def test_photographs_that_cannot_be_indexed_are_not_the_checkpoints_fault(
    place: Path, clock: Clock
) -> None:
    fault = InputError("none of the 3 images can be read")
    watcher = Watcher(make_watch(place), clock, fault)
    save(place, "step_1.pt", "bad")
    with pytest.raises(InputError, match="none of the 3"):
        watcher.round()
    watch = watcher.watch
    stages.index_stage(
        IndexRequest(images=watch.images, settings=watch.settings, options=watch.options)
    )
    # Now they are known, so the same words are about the checkpoint.
    assert [one.outcome for one in watcher.round()] == ["failed"]


@pytest.mark.parametrize("error", [UnreachableError("away"), KeyboardInterrupt()])
def test_what_ends_the_round_does_not_count_as_an_attempt(
    place: Path, clock: Clock, error: BaseException
) -> None:
    watcher = Watcher(make_watch(place), clock, error)
    save(place, "step_1.pt", "bad")
    with pytest.raises(type(error)):
        watcher.round()
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert known.attempts == 0
    assert watcher.verdicts() == {"step_1.pt": "due"}
    assert read_lease(watcher.watch.address("step_1.pt")) is None


def test_an_earlier_failure_outlives_a_round_that_ends(place: Path, clock: Clock) -> None:
    watcher = Watcher(make_watch(place), clock)
    save(place, "step_1.pt", "bad")
    watcher.round()
    clock.now += 60
    watcher.callbacks.fault = UnreachableError("away")
    with pytest.raises(StoreError):
        watcher.round()
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert (known.status, known.attempts, known.reason) == ("failed", 1, "out of luck")


class HangingCallbacks(WatchCallbacks):
    """Scores in a process of its own, where a file that starts with ``bad`` never ends."""

    def score(self, checkpoint: str) -> list[LayerSummary]:
        content = Path(checkpoint).read_bytes()
        stall = self.watch.watching.stall_seconds
        pid = call_in_child(reads, content, stall_seconds=stall)
        self.scored.append(str(pid))
        return super().score(checkpoint)


def reads(content: bytes) -> int:
    while content.startswith(b"bad"):
        pass
    return os.getpid()


def test_a_file_that_hangs_its_reader_is_abandoned_and_the_next_is_scored(
    place: Path, clock: Clock
) -> None:
    watcher = Watcher(make_watch(place, stall_seconds=0.5), clock)
    watcher.callbacks = HangingCallbacks(watcher.watch)
    save(place, "step_1.pt", "bad")
    save(place, "step_2.pt")
    assert [one.outcome for one in watcher.round()] == ["failed", "scored"]
    known = watcher.watch.read("step_1.pt")
    assert known is not None
    assert known.reason.startswith("made no progress for 0.5 s (limit --stall-seconds)")
    clock.now += 60
    assert "given up after 2 attempts" in watcher.round()[0].why


def test_in_the_order_of_steps(place: Path, watcher: Watcher) -> None:
    for step in (1000, 200, 30):
        save(place, f"step_{step}.pt", str(step))
    watcher.round()
    assert watcher.callbacks.scored == ["step_30.pt", "step_200.pt", "step_1000.pt"]


def test_announced_once_and_again_only_when_nobody_takes_it_up(place: Path, clock: Clock) -> None:
    watcher = Watcher(make_watch(place, start="event", event_patience=900), clock)
    save(place, "step_1.pt")
    assert [one.outcome for one in watcher.round()] == ["announced"]
    assert watcher.round() == []
    assert Watcher(watcher.watch, clock).round() == []
    clock.now += 900
    assert [one.outcome for one in watcher.round()] == ["announced"]
    clock.now += 900
    assert watcher.round() == []
    clock.now += 900
    assert [one.outcome for one in watcher.round()] == ["announced"]
    assert [what for what, *_ in watcher.callbacks.notified] == ["arrived"] * 3
    assert watcher.callbacks.scored == []


def test_who_scores_an_announced_checkpoint_shares_its_memory(place: Path, clock: Clock) -> None:
    announcing = Watcher(make_watch(place, start="event"), clock)
    save(place, "step_1.pt")
    announcing.round()
    scoring = Watcher(make_watch(place), clock)
    assert [one.outcome for one in scoring.round()] == ["scored"]
    assert scoring.callbacks.notified == [("scored", "step_1.pt", 1)]
    assert announcing.verdicts() == {"step_1.pt": "done"}


def test_a_failure_is_announced_again_after_its_pause(place: Path, clock: Clock) -> None:
    announcing = Watcher(make_watch(place, start="event"), clock)
    save(place, "step_1.pt", "bad")
    announcing.round()
    Watcher(make_watch(place), clock).round()
    assert announcing.verdicts() == {"step_1.pt": "waiting"}
    clock.now += 60
    (outcome,) = announcing.round()
    assert (outcome.outcome, outcome.attempts) == ("announced", 1)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "path": "../../x"}', b"\xff"]
)
def test_a_damaged_state_starts_afresh(
    place: Path, watcher: Watcher, events: list[Event], damage: bytes
) -> None:
    save(place, "step_1.pt")
    watcher.round()
    (watcher.watch.address("step_1.pt") / "state.json").write_bytes(damage)
    assert [one.outcome for one in watcher.round()] == ["scored"]
    assert any(isinstance(e, Notice) and "starts afresh" in e.message for e in events)


def test_memory_of_another_checkpoint_is_not_believed(place: Path, watcher: Watcher) -> None:
    for name in ("a.pt", "b.pt"):
        save(place, name)
    watcher.round()
    watch = watcher.watch
    stolen = (watch.address("a.pt") / "state.json").read_bytes()
    (watch.address("b.pt") / "state.json").write_bytes(stolen)
    assert watch.read("b.pt") is None
    assert set(watch.read_all()) == {"a.pt"}


def test_memory_of_a_later_version_is_left_as_it_is(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt")
    watcher.round()
    file = watcher.watch.address("step_1.pt") / "state.json"
    later = json.dumps(json.loads(file.read_bytes()) | {"format": 2}).encode()
    file.write_bytes(later)
    with pytest.raises(StoreError, match="later one"):
        watcher.round()
    assert file.read_bytes() == later


def test_what_lies_in_the_store(place: Path, watcher: Watcher) -> None:
    save(place, "step_1.pt")
    watcher.round()
    about = json.loads((watcher.watch.place / "watch.json").read_bytes())
    assert about == {
        "format": 1,
        "folder": str(place / "checkpoints"),
        "images": str(place / "photographs"),
        "architecture": None,
        "settings": {},
    }
    state = json.loads((watcher.watch.address("step_1.pt") / "state.json").read_bytes())
    assert (state["format"], state["path"], state["status"]) == (1, "step_1.pt", "scored")
    assert datetime.fromisoformat(state["since"]) == datetime.fromtimestamp(1.8e9 + 10, UTC)
    assert [one["layer"] for one in state["scores"]] == ["blocks.0", "norm"]
