"""The command ``soapworks watch`` around its rounds: faults, pauses, bad input, its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from soapworks.errors import EngineError, InputError, StoreError, UnreachableError
from soapworks.flows import run_watch as watch_loop
from soapworks.flows.run_watch import keep_watching, watch_once
from soapworks.tasks.events import Event, Notice, listening
from soapworks.tasks.watch.state import Watch
from tests.flows.test_cli import one_sentence, refused
from tests.small import write_photographs
from tests.tasks.watchers import Clock, Watcher, make_watch


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photographs", 1)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, Notice):
            lines.append(event.message)

    with listening(listener):
        yield lines


class Engine:
    """Counts how often it is entered; in its place the round is done without Prefect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        self.entered = 0
        self.fault: Exception | None = None

        def do(watch: Watch, found: Any, engine: Any) -> list[dict[str, Any]]:
            if not found.of("due"):
                return []
            with engine():
                watcher = Watcher(watch, clock)
                return [vars(one) for one in watcher.round()]

        monkeypatch.setattr(watch_loop, "_work", do)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.entered += 1
        if self.fault:
            raise self.fault
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Engine:
    return Engine(monkeypatch, clock)


def fail_to_list(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
    left, original = list(errors), watch_loop.survey_when_stable

    def survey(*arguments: Any, **more: Any) -> Any:
        if left:
            raise left.pop(0)
        return original(*arguments, **more)

    monkeypatch.setattr(watch_loop, "survey_when_stable", survey)


def test_without_work_the_engine_is_never_started(
    place: Path, engine: Engine, clock: Clock
) -> None:
    assert keep_watching(make_watch(place), engine=engine, clock=clock, rounds=3) == []
    assert (engine.entered, clock.slept) == (0, [60.0, 60.0])


def test_faults_of_the_listing_that_pass_are_told_and_waited_for(
    place: Path, engine: Engine, clock: Clock, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_list(monkeypatch, *(UnreachableError("s3://x is away.") for _ in range(3)))
    (place / "checkpoints/step_1.pt").write_text("x")
    watch = make_watch(place, stable_seconds=0, max_backoff_seconds=100)
    (outcome,) = keep_watching(watch, engine=engine, clock=clock, rounds=4)
    assert outcome["outcome"] == "scored"
    assert clock.slept == [60.0, 100.0, 100.0]
    assert told[:2] == [f"s3://x is away; trying again in {n} s" for n in (60, 100)]


@pytest.mark.parametrize("error", [InputError("no bucket"), StoreError("the store is read-only")])
def test_lasting_faults_end_the_watch(
    place: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_to_list(monkeypatch, error)
    with pytest.raises(type(error)):
        keep_watching(make_watch(place), engine=engine, rounds=2)


def test_one_round_waits_for_nothing(
    place: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_list(monkeypatch, UnreachableError("away"))
    with pytest.raises(UnreachableError):
        watch_once(make_watch(place), engine=engine)


def test_an_engine_that_never_worked_ends_the_watch_a_lost_one_does_not(
    place: Path, engine: Engine, clock: Clock
) -> None:
    watch = make_watch(place, stable_seconds=0)
    (place / "checkpoints/step_1.pt").write_text("x")
    engine.fault = EngineError("no server")
    with pytest.raises(EngineError):
        keep_watching(watch, engine=engine, clock=clock, rounds=2)
    engine.fault = None

    def lose() -> None:
        (place / "checkpoints/step_2.pt").write_text("y")
        engine.fault = None if engine.fault else EngineError("lost")

    clock.meanwhile = lose
    outcomes = keep_watching(watch, engine=engine, clock=clock, rounds=3)
    assert [one["path"] for one in outcomes] == ["step_1.pt", "step_2.pt"]


def test_a_pause_ends_when_something_is_due(place: Path, engine: Engine, clock: Clock) -> None:
    (place / "checkpoints/step_1.pt").write_text("bad")
    watch = make_watch(place, stable_seconds=0, backoff_seconds=7, max_attempts=3)
    outcomes = keep_watching(watch, engine=engine, clock=clock, rounds=6)
    assert [one["outcome"] for one in outcomes] == ["failed"] * 3
    assert clock.slept == [7.0, 14.0, 60.0, 60.0, 60.0]


def test_asking_to_try_again_holds_for_one_round(place: Path, engine: Engine, clock: Clock) -> None:
    (place / "checkpoints/step_1.pt").write_text("bad")
    plain = make_watch(place, stable_seconds=0, max_attempts=1, interval=60)
    keep_watching(plain, engine=engine, clock=clock, rounds=1)
    again = make_watch(place, stable_seconds=0, max_attempts=1, interval=60, retry=True)
    assert len(keep_watching(again, engine=engine, clock=clock, rounds=4)) == 1


def test_news_is_told_once(place: Path, engine: Engine, clock: Clock, told: list[str]) -> None:
    (place / "checkpoints/step_1.pt").write_text("bad")
    watch = make_watch(place, stable_seconds=0, max_attempts=1)
    keep_watching(watch, engine=engine, clock=clock, rounds=4)
    assert told[0] == f"watching {place / 'checkpoints'}: 1 checkpoint (1 due)"
    assert sum("given up" in line for line in told if line.startswith("step_1.pt: given")) == 1


def watch(place: Path, *more: str) -> list[str]:
    folders = [str(place / name) for name in ("checkpoints", "photographs", "store")]
    return ["watch", folders[0], "--images", folders[1], "--store", folders[2], *more]


def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (place / "empty").mkdir()
    missing, empty = str(place / "missing"), str(place / "empty")
    for arguments, status, words in (
        (["watch", missing, *watch(place)[2:]], 1, "there is no folder"),
        ([*watch(place), "--images", missing], 1, "no folder"),
        ([*watch(place), "--images", empty], 1, "no image"),
        ([*watch(place), "--start", "event"], 1, "PREFECT_API_URL"),
        (["watch", "s3://key:secret@b/c", *watch(place)[2:]], 1, "password"),
        ([*watch(place), "--start", "there"], 2, "there"),
        ([*watch(place), "--stable-seconds", "-1"], 2, "stable-seconds"),
        ([*watch(place), "--json"], 2, "--once"),
    ):
        got, said = refused(capsys, *arguments)
        assert (got, words in said) == (status, True), said
        assert "secret" not in said
        if status == 1:
            one_sentence(said)
    assert not (place / "store").exists()


def test_ctrl_c_ends_it_in_a_sentence(place: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "soapworks.flows.cli", *watch(place)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert running.stderr
    assert "0 checkpoints" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert one_sentence(said) == "soapworks: interrupted."
