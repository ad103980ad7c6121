"""Several processes that watch the same folder, one of them killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from soapworks.tasks.watch.survey import wait_for_stale_leases
from tests.tasks.watch.test_process import clock, place, save
from tests.tasks.watchers import Clock, Watcher, make_watch

__all__ = ["clock", "place"]

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Start processes that watch for one round; each has said "ready" and waits for a word."""
    running: list[subprocess.Popen[str]] = []

    def start_one() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.tasks.watchers", str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        running.append(process)
        assert heard(process) == "ready"
        return process

    yield start_one
    for process in running:
        process.kill()
        process.communicate()


def heard(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def say(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_watchers_score_each_checkpoint_once(place: Path, start: Start) -> None:
    for step in range(8):
        save(place, f"step_{step}.pt", str(step))
    processes = [start(), start()]
    for process in processes:
        say(process)
    outcomes = [heard(process) for process in processes]
    assert sorted((place / "log").read_text().split()) == [f"step_{n}.pt" for n in range(8)]
    assert "".join(outcomes).count("scored") == 8


def test_what_a_killed_watcher_was_at_another_goes_on_with(
    place: Path, start: Start, clock: Clock
) -> None:
    for step in (1, 2):
        save(place, f"step_{step}.pt", str(step))
    (place / "block").touch()
    process = start()
    say(process)
    assert heard(process) == "scoring"
    second = Watcher(make_watch(place, stable_seconds=0), clock)
    assert second.verdicts() == {"step_1.pt": "held", "step_2.pt": "due"}
    assert [one.path for one in second.round()] == ["step_2.pt"]
    process.kill()
    process.wait()
    assert second.verdicts() == {"step_1.pt": "due", "step_2.pt": "done"}
    (outcome,) = second.round()
    assert (outcome.path, outcome.outcome, outcome.attempts) == ("step_1.pt", "scored", 2)


def test_a_dead_holder_elsewhere_is_waited_out(place: Path, clock: Clock) -> None:
    """Its lease was written on another machine, so only standing still gives it away."""
    watcher = Watcher(make_watch(place, stable_seconds=0, lease_seconds=0.3), clock)
    save(place, "step_1.pt")
    lease = {"format": 1, "token": "t", "beat": 1, "seconds": 0.3, "host": "far", "pid": 1}
    file = watcher.watch.address("step_1.pt") / "lease-000001.json"
    file.write_bytes(json.dumps(lease).encode())
    assert watcher.round() == []
    assert wait_for_stale_leases(watcher.watch)
    assert [one.outcome for one in watcher.round()] == ["scored"]


def test_a_live_holder_is_not_waited_for(place: Path, clock: Clock, start: Start) -> None:
    save(place, "step_1.pt")
    (place / "block").touch()
    process = start()
    say(process)
    assert heard(process) == "scoring"
    watch = make_watch(place, stable_seconds=0)
    file = watch.address("step_1.pt") / "lease-000001.json"
    beat = json.loads(file.read_bytes())
    clock.meanwhile = lambda: file.write_bytes(
        json.dumps(beat | {"beat": beat["beat"] + 1}).encode()
    )
    assert not wait_for_stale_leases(watch, clock=clock)
    assert len(clock.slept) == 1
