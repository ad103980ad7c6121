"""One injection of each kind: the long part does the same many times over."""

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
