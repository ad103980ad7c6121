"""Products that one pass makes together are not shared out between passes."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from soapworks.storage_schemas.publishing.attempts import Attempt
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Event, Waiting
from soapworks.tasks.get_or_make import get_or_make_all
from tests.storage_schemas import toys
from tests.storage_schemas.toys import Toy

RECIPES = [Toy(n=n) for n in range(3)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("soapworks.tasks.get_or_make.POLL_SECONDS", 0.1)
    return Store(tmp_path / "store", lease_seconds=0.5)


class Maker:
    """Makes what it is given, and remembers what it was given at once."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []

    def __call__(self, attempts: Mapping[Toy, Attempt]) -> None:
        self.passes.append([recipe.n for recipe in attempts])
        for attempt in attempts.values():
            toys.make(attempt)


def test_all_leases_of_a_dead_holder_are_waited_for(store: Store) -> None:
    make, real, pauses = Maker(), store.claim, [0.2] * len(RECIPES)

    def claim_slowly(recipe: Toy) -> object:  # the first time, as in a bucket that is cold
        time.sleep(pauses.pop() if pauses else 0)
        return real(recipe)

    store.claim = claim_slowly  # type: ignore[method-assign,assignment]
    for recipe in RECIPES:  # nobody can tell whose they were
        (store.address(recipe) / "lease-000001.json").write_bytes(b"{")
    assert len(get_or_make_all(store, RECIPES, make)) == 3
    assert make.passes == [[0, 1, 2]]


def test_who_comes_second_waits_until_the_first_has_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soapworks.tasks.get_or_make.POLL_SECONDS", 1.0)
    store.lease_seconds = 30
    first, second = Maker(), Maker()
    claimed, others = threading.Event(), threading.Event()
    real = store.claim

    def claim_slowly(recipe: Toy) -> object:
        found = real(recipe)
        if threading.current_thread() is thread and recipe == RECIPES[0]:
            claimed.set()
            others.wait(0.2)  # the second is asking by now
        return found

    store.claim = claim_slowly  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=get_or_make_all, args=(store, RECIPES, first))
    thread.start()
    claimed.wait()
    assert len(get_or_make_all(store, RECIPES, second)) == 3
    thread.join()
    assert (first.passes, second.passes) == ([[0, 1, 2]], [])


def test_what_nobody_makes_is_made_while_others_make_the_rest(
    store: Store, events: list[Event]
) -> None:
    make = Maker()
    store.lease_seconds = 30
    busy = store.claim(RECIPES[0])
    assert isinstance(busy, Attempt)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(get_or_make_all(store, RECIPES, make)))
    thread.start()
    while not make.passes:
        thread.join(0.01)
    toys.make(busy)
    thread.join()
    assert make.passes == [[1, 2]]
    assert len(found) == 3
    assert sum(isinstance(event, Waiting) for event in events) <= 1
