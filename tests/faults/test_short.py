"""One injection of each kind: the long part does the same many times over."""

import signal

import pytest

from tests.faults.arena import Arena
from tests.faults.many import inject
from tests.faults.primitives import Fault

SHORT = {
    "a shard is torn": Fault("kill", 2, "write", "features/*/c/*", seed=1),
    "a note is written, not in place": Fault("kill", 3, "rename", "*/parts/block-*", seed=2),
    "power fails before publishing": Fault("power", 1, "link", "features/*/record.json", seed=3),
    "power fails when the record is named": Fault(
        "power", 1, "unlink", "features/*/record.json.*", seed=11
    ),
    "power fails before the last product": Fault(
        "power", 1, "link", "heads/*/record.json", seed=12
    ),
    "published, attempt not closed": Fault("kill", 2, "unlink", "*/record.json.*", seed=4),
    "counts are torn": Fault("kill", 1, "write", "responses/*/counts/c/*", seed=5),
    "the head's record is not there": Fault("kill", 1, "link", "heads/*/record.json", seed=6),
    "the disk is full": Fault("full", 400, seed=7),
    "the disk is read-only": Fault("readonly", 350, seed=8),
    "the disk breaks": Fault("broken", 1, "sync", "features/*", seed=9),
    "a lease cannot be given back": Fault("broken", 5, "unlink", "*/lease-*", seed=10),
}


def test_interrupted_once_and_started_again(arena: Arena) -> None:
    faults = list(SHORT.values())

    def one(seed: int) -> None:
        # Nobody can tell whose a lease was that a power cut tore: it has to expire.
        seconds = 1.0 if faults[seed].kind == "power" else 60.0
        arena.disturb(faults[seed], lease_seconds=seconds)

    inject(range(len(faults)), one)


def test_one_that_stood_still_leaves_the_work_of_others(arena: Arena) -> None:
    """It publishes late; the attempt of the one that took over meanwhile is not deleted."""
    store, options = arena.scratch() / "store", {"lease_seconds": 1.0}
    late = arena.start(store, Fault("stop", 1, "link", "features/*/record.json"), options=options)
    late.wait_until(lambda: late.struck)
    # It has taken the blocks over, and is about to write the metadata around them.
    other = arena.start(store, Fault("stop", 1, "rename", "features/*/zarr.json"), options=options)
    other.wait_until(lambda: other.struck)
    late.signal(signal.SIGCONT)
    late.wait_until(lambda: any(address.startswith("features/") for address in late.published))
    other.signal(signal.SIGCONT)
    for outcome in (other.wait(), late.wait()):
        assert outcome.struck
        assert outcome.finished, outcome.log
    arena.counts["stop"] += 2
    arena.check_whole(store)


def test_a_fault_that_never_comes_is_no_success(arena: Arena) -> None:
    with pytest.raises(AssertionError, match="never came"):
        arena.disturb(Fault("kill", 1, "write", "no/such/path"))
    few = pytest.raises(AssertionError, match="0 faults of the kind kill came, of 1")
    with few, arena.at_least("kill", 1):
        pass
