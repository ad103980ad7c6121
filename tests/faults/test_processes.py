"""Threads that stumble, memory that runs out, processes that stop, die and come back."""

import random
import shutil
import signal
from functools import partial
from typing import Any

import pytest

from tests.faults import oracle
from tests.faults.arena import DEADLINE, Arena
from tests.faults.many import inject
from tests.faults.moments import moments
from tests.faults.sabotage import out_of_memory, stumble

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

PLACES = {
    "soapworks.tasks.passes.sources:RealSource._load": 10,
    "soapworks.tasks.stages.extract:write_block": 10,
    "soapworks.storage_schemas.publishing.digesting_store:DigestingStore.set": 60,
    "soapworks.method.moments:Moments.update": 6,
    "soapworks.tasks.stages.respond:count_responses": 10,
    "soapworks.tasks.stages.score:score_components": 2,
}
"""Where a call may fail -> how many calls an undisturbed run makes there, at least."""


@pytest.mark.parametrize(("error", "first"), [("torch", 6000), ("numpy", 6100)])
def test_memory_runs_out(arena: Arena, error: str, first: int) -> None:
    """The batch is halved and stays so; with one thread of BLAS not even the rounding changes."""
    n_full = sum(calls for (n, _), calls in arena.undisturbed.forwards.items() if n == 4)

    def one(seed: int) -> None:
        rng = random.Random(seed)
        at, limit = rng.randrange(1, n_full + 1), rng.choice([1, 2])
        sabotage = partial(out_of_memory, error=error, limits={at: limit})
        outcome = arena.disturb(sabotage=sabotage)
        assert outcome.finished
        assert oracle.n_images(outcome.forwards) == oracle.n_images(arena.undisturbed.forwards)
        sizes = [n for n, _ in outcome.forwards]
        assert set(sizes) <= {4, 2, 1}

    inject(range(first, first + 6), one)


@pytest.mark.parametrize("keep", ["all", "none"])
def test_memory_runs_out_in_the_middle_of_a_batch(arena: Arena, keep: Any) -> None:
    """Half of it had come through, and is not kept twice when the whole is done again."""
    # 4 images do not fit, 2 do, and then the other 2 do not.
    sabotage = partial(out_of_memory, error="torch", limits={1: 2, 3: 1})
    outcome = arena.disturb(sabotage=sabotage, keep=keep)
    assert outcome.finished
    assert {n for n, _ in outcome.forwards} == {2, 1}


def test_memory_that_is_too_little_for_one_image(arena: Arena) -> None:
    sabotage = partial(out_of_memory, error="torch", limits={3: 0})
    place = arena.scratch()
    outcome = arena.start(place / "store", sabotage=sabotage).wait()
    assert "do not fit" in (outcome.error or "")
    arena.check_visible(place / "store")
    arena.check_recovers(place / "store")


def test_a_thread_stumbles(arena: Arena) -> None:
    """What it says is not lost, and neither is what the others had finished."""

    def one(seed: int) -> None:
        rng = random.Random(seed)
        place, n_calls = rng.choice(sorted(PLACES.items()))
        at = rng.randrange(1, n_calls + 1)
        store = arena.scratch() / "store"
        child = arena.start(store, sabotage=partial(stumble, place=place, at=at))
        outcome = child.wait()
        assert outcome.struck, place
        assert "a thread stumbled" in (outcome.error or ""), outcome.log
        arena.counts["sabotage"] += 1
        arena.check_visible(store)
        arena.check_recovers(store)
        shutil.rmtree(store)

    inject(range(6200, 6212), one)


def test_several_at_once_of_which_one_is_killed(arena: Arena) -> None:
    """What all of them put through the network together is what one would have."""
    possible = moments(arena.steps())

    def one(seed: int) -> None:
        rng = random.Random(seed)
        store = arena.scratch() / "store"
        fault = rng.choice(possible).fault("kill", seed)
        victim = arena.start(store, fault)
        others = [arena.start(store) for _ in range(rng.choice([1, 2]))]
        outcomes = [child.wait() for child in (*others, victim)]
        assert all(outcome.finished for outcome in outcomes[:-1]), outcomes
        killed = outcomes[-1].struck
        arena.counts["kill"] += killed
        done = sum(oracle.n_images(outcome.forwards) for outcome in outcomes)
        once = oracle.n_images(arena.undisturbed.forwards)
        # Of the killed, a block in the making and one in writing may be lost.
        assert once <= done <= once + (2 * 4 if killed else 0)
        arena.check_whole(store)
        shutil.rmtree(store)

    with arena.at_least("kill", 3):  # the others may have done the work before
        inject(range(6300, 6312), one)


def test_stopped_and_continued(arena: Arena) -> None:
    """Others take over from one that stands still; when it goes on it does no harm."""
    possible = moments(arena.steps())

    def one(seed: int) -> None:
        rng = random.Random(seed)
        store = arena.scratch() / "store"
        options = {"lease_seconds": 1.0}
        sleeper = arena.start(store, rng.choice(possible).fault("stop", seed), options=options)
        sleeper.wait_until(lambda: sleeper.struck)
        other = arena.start(store, options=options)
        if rng.random() < 0.5:  # while the other is at work, or when it is done
            other.ended(rng.uniform(1.0, 4.0))
        else:
            assert other.ended(DEADLINE)
        sleeper.signal(signal.SIGCONT)
        outcomes = sleeper.wait(), other.wait()
        assert outcomes[0].struck
        arena.counts["stop"] += 1
        for outcome in outcomes:
            assert outcome.finished or outcome.clear, outcome.log
        assert outcomes[1].finished, outcomes[1].log
        arena.check_whole(store)
        shutil.rmtree(store)

    inject(range(6400, 6410), one)


def test_killed_on_another_machine(arena: Arena) -> None:
    """Nobody there can tell that it is dead: its lease expires, and no later than that."""
    possible = moments(arena.steps())

    def one(seed: int) -> None:
        store = arena.scratch() / "store"
        fault = random.Random(seed).choice(possible).fault("kill", seed)
        outcome = arena.start(store, fault, host="elsewhere", options={"lease_seconds": 1.0}).wait()
        assert outcome.struck
        arena.counts["kill"] += 1
        # The lease says itself when it expires; the one who waits would be patient for longer.
        arena.check_recovers(store, exact="layers", lease_seconds=50.0)
        shutil.rmtree(store)

    inject(range(6500, 6506), one)
