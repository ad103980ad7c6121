"""kill -9 and power cuts at every kind of step and at random ones, in both storage modes."""

import random
import shutil
import signal

import pytest

from tests.faults.arena import Arena
from tests.faults.many import inject
from tests.faults.moments import moments, one_of_each_sort
from tests.faults.primitives import Fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_killed_at_every_sort_of_step(arena: Arena) -> None:
    chosen = one_of_each_sort(moments(arena.steps()), seed=0)
    inject(range(len(chosen)), lambda seed: arena.disturb(chosen[seed].fault("kill", seed)))


def test_killed_at_random_steps_without_features(arena: Arena) -> None:
    possible = moments(arena.steps("none"))

    def one(seed: int) -> None:
        moment = random.Random(seed).choice(possible)
        arena.disturb(moment.fault("kill", seed), keep="none")

    inject(range(1000, 1020), one)


def test_killed_again_and_again(arena: Arena) -> None:
    """What one attempt left is taken over by the next, which is killed as well."""
    n_steps = len(arena.steps())

    def one(seed: int) -> None:
        rng = random.Random(seed)
        faults = [Fault("kill", rng.randrange(1, n_steps // 2), seed=seed) for _ in range(3)]
        arena.disturb(*faults)

    with arena.at_least("kill", 12):
        inject(range(2000, 2008), one)


def test_killed_at_a_random_time(arena: Arena) -> None:
    def one(seed: int) -> None:
        place = arena.scratch()
        child = arena.start(place / "store")
        # Whenever that is: it ends in the same bytes.
        child.ended(random.Random(seed).uniform(0.0, arena.seconds))
        child.signal(signal.SIGKILL)
        arena.counts["kill"] += child.wait().exitcode == -signal.SIGKILL
        if (place / "store").exists():
            arena.check_visible(place / "store")
        arena.check_recovers(place / "store")
        shutil.rmtree(place)

    with arena.at_least("kill", 6):
        inject(range(3000, 3012), one)


def test_power_fails(arena: Arena) -> None:
    """What was not synced may be gone or half there, whatever its name says."""
    possible = moments(arena.steps())

    def one(seed: int) -> None:
        moment = random.Random(seed).choice(possible)
        # Nobody can tell whose a torn lease was: it has to expire.
        arena.disturb(moment.fault("power", seed), lease_seconds=1.0)

    inject(range(4000, 4030), one)
