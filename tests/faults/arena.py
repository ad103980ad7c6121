"""Where runs are disturbed: children, their stores, and the comparison with an undisturbed run."""

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_schemas.store import Store
from tasks.request import ScoreRequest
from tasks.settings import RunOptions, ScoreSettings
from tests.faults import oracle
from tests.faults.child import Job, work
from tests.faults.primitives import Fault

DEADLINE = 120.0
_CONTEXT = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Have children forked from a process that has everything imported."""
    _CONTEXT.set_forkserver_preload(["tests.faults.imports"])


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    exitcode: int | None
    error: str | None
    """What it failed with; None where it finished, or was killed."""
    clear: bool
    """Whether the error was one that says in a sentence what to do."""
    finished: bool
    forwards: oracle.Forwards
    log: str


class Child:
    """A process that runs all stages."""

    def __init__(self, job: Job) -> None:
        self.folder = job.folder
        self._process = _CONTEXT.Process(target=work, args=(job,), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ended(self) -> bool:
        return self._process.exitcode is not None

    def wait(self, seconds: float = DEADLINE) -> Outcome:
        """Return how it ended; one that hangs is killed, which fails the test."""
        self._process.join(seconds)
        log, hung = self.folder / "log", self._process.exitcode is None
        if hung:
            self._process.kill()
            self._process.join()
        said = log.read_text()[-3000:] if log.exists() else ""
        code = self._process.exitcode
        self._process.close()
        if hung:
            raise AssertionError(f"a run did not end within {seconds} s: {said}")
        file = self.folder / "outcome.json"
        outcome = json.loads(file.read_text()) if file.exists() else None
        return Outcome(
            exitcode=code,
            error=outcome and outcome["error"],
            clear=bool(outcome and outcome.get("clear")),
            finished=outcome is not None and outcome["error"] is None,
            forwards=oracle.forwards(self.folder / "forwards"),
            log=said,
        )


class Arena:
    """A small request, its undisturbed result, and stores to disturb.

    Parameters
    ----------
    folder
        Where everything lies.
    checkpoint, photographs
        What is scored.
    """

    def __init__(self, folder: Path, checkpoint: Path, photographs: Path) -> None:
        self.folder, self._checkpoint, self._photographs = folder, checkpoint, photographs
        self.reference = folder / "reference"
        outcome = self.start(self.reference).wait()
        assert outcome.finished, outcome.log
        self.expected = oracle.published(self.reference)
        self.tree = sorted(oracle.tree(self.reference))
        self.forwards = outcome.forwards

    def request(self, store: Path | str, **options: Any) -> ScoreRequest:
        """Return the request, on a store."""
        settings = {"synthetic_images": 6, "block_images": 4, "segment_images": 8}
        return ScoreRequest(
            checkpoint=str(self._checkpoint),
            images=str(self._photographs),
            settings=ScoreSettings(layers="blocks.1,norm", **settings),
            options=RunOptions(
                **{"store": str(store), "device": "cpu", "batch_size": 4, "workers": 2} | options
            ),
        )

    def scratch(self) -> Path:
        """Return a new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def start(self, store: Path | str, fault: Fault | None = None, **more: Any) -> Child:
        """Start a run on a store."""
        options = more.pop("options", {})
        return Child(Job(self.request(store, **options), self.scratch(), fault, **more))

    def steps(self) -> list[tuple[str, str]]:
        """Return the (step, path) of all changes that an undisturbed run makes to its store."""
        child = self.start(self.scratch() / "store", Fault("trace"))
        outcome = child.wait()
        assert outcome.finished, outcome.log
        lines = (child.folder / "steps").read_text().splitlines()
        return [(step, path) for step, _, path in (line.partition(" ") for line in lines)]

    def check_visible(self, store: Path) -> None:
        """Check that what can be seen is whole and right, however a run was disturbed."""
        assert oracle.differences(store, self.expected) == []

    def check_recovers(self, store: Path, *, exact: bool = True, **options: Any) -> Outcome:
        """Run the same command undisturbed, and check bytes, forward passes and leftovers.

        Parameters
        ----------
        exact
            Whether precisely the blocks that lack must go through the network.
        """
        needed = oracle.lacking(store, self.reference)
        outcome = self.start(store, options=options).wait()
        assert outcome.finished, outcome.log
        if exact:
            assert outcome.forwards == needed
        self.check_visible(store)
        assert sorted(oracle.published(store)) == sorted(self.expected)
        # What the killed left behind is known as such, and when that is gone all is as it was.
        works = Store(store, lease_seconds=0.5)
        for location, _ in works.abandoned(patience=2.0):
            works.discard(location)
        assert sorted(oracle.tree(store)) == self.tree
        return outcome

    def disturb(self, fault: Fault, *, after: Callable[[Path], None] | None = None) -> Outcome:
        """Disturb one run, check what is visible, run again and check everything."""
        place = self.scratch()
        store = place / "store"
        outcome = self.start(store, fault).wait()
        if after:
            after(store)
        if fault.kind in ("kill", "power"):
            assert outcome.exitcode == -9 or outcome.finished, outcome.log
        else:
            assert outcome.finished or outcome.clear, outcome.log
        self.check_visible(store)
        self.check_recovers(store)
        shutil.rmtree(place)
        return outcome
