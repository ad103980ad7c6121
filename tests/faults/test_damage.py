"""Bytes that change, shrink or go between two runs: told or mended, and never handed on."""

import random
import shutil
from pathlib import Path

import pytest

from soapworks.storage_schemas.store import Store
from soapworks.tasks.maintenance.repair import repair
from soapworks.tasks.maintenance.verify import verify
from tests.faults import oracle
from tests.faults.arena import Arena
from tests.faults.many import inject
from tests.faults.moments import moments

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def harm(store: Path, rng: random.Random) -> str:
    """Damage one file of a store; return which and how."""
    file = rng.choice(sorted(file for file in store.rglob("*") if file.is_file()))
    how = rng.choice(["flipped", "flipped", "cut", "emptied", "deleted", "longer"])
    data = bytearray(file.read_bytes())
    # A new file in its place: the old one may have a second name.
    if how == "flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(len(data) + 1) :]
    elif how == "longer":
        data += bytes([rng.randrange(256)])
    elif how == "emptied":
        data.clear()
    file.unlink()
    if how != "deleted":
        file.write_bytes(data)
    return f"{file.relative_to(store)} {how}"


def test_damaged_between_two_runs(arena: Arena) -> None:
    possible = moments(arena.steps())

    def one(seed: int) -> None:
        rng = random.Random(seed)
        store = arena.scratch() / "store"
        finished = rng.random() < 0.5
        fault = None if finished else rng.choice(possible).fault("kill", seed)
        outcome = arena.start(store, fault).wait()
        assert outcome.struck or finished, fault
        if rng.random() < 0.3:
            for kind in ("heads", "scores"):  # so that what they are made of is read again
                shutil.rmtree(store / kind, ignore_errors=True)
        if not any(file.is_file() for file in store.rglob("*")):
            return
        what = harm(store, rng)
        arena.counts["damage"] += 1
        damaged = {words.partition(":")[0] for words in arena.differences(store)}
        outcome = arena.start(store, options={"lease_seconds": 1.0}).wait()
        assert outcome.finished or outcome.clear, f"{what}: {outcome.log}"
        # Nothing was made from it: at most it is itself still there.
        still = {words.partition(":")[0] for words in arena.differences(store)}
        assert still <= damaged, what
        works = Store(store, lease_seconds=1.0)
        found = verify(works, workers=1)
        assert {finding.address for finding in found.damaged} >= still, what
        repair(works, found.damaged, memory=1 << 30, workers=1)
        arena.check_recovers(store, exact="", complete=False)
        assert verify(works, workers=1).damaged == (), what
        heads = {address for address in arena.expected if address.startswith("heads/")}
        assert heads <= set(oracle.published(store)), what
        shutil.rmtree(store)

    with arena.at_least("damage", 30):
        inject(range(7000, 7040), one)
