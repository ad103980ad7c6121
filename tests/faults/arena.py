"""Where runs are disturbed: children, their stores, and the comparison with an undisturbed run."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soapworks.storage_schemas.store import Store
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.children import CONTEXT
from tests.faults import oracle
from tests.faults.child import Job, furnish, work
from tests.faults.many import ONLY
from tests.faults.primitives import Fault

DEADLINE = 120.0
N_PHOTOGRAPHS = 10
KILLS = ("kill", "power")


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    exitcode: int | None
    error: str | None
    """What it failed with; None where it finished, or was killed."""
    clear: bool
    """Whether the error was one that says in a sentence what to do."""
    finished: bool
    struck: bool
    """Whether the fault came."""
    forwards: oracle.Forwards
    published: tuple[str, ...]
    """Addresses of the products that it published."""
    log: str


class Child:
    """A process that runs all stages."""

    def __init__(self, job: Job) -> None:
        self.folder = job.folder
        self._process = CONTEXT.Process(target=work, args=(job,), daemon=True)
        self._process.start()

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def ended(self, seconds: float = 0.0) -> bool:
        """Return whether it ends within some time."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    @property
    def struck(self) -> bool:
        """Whether its fault came."""
        return (self.folder / "struck").exists()

    @property
    def published(self) -> tuple[str, ...]:
        """Addresses of the products that it has published."""
        file = self.folder / "published"
        return tuple(file.read_text().split()) if file.exists() else ()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so; it may end before that."""
        end = time.monotonic() + DEADLINE
        while not condition() and not self.ended(0.02):
            assert time.monotonic() < end

    def wait(self, seconds: float = DEADLINE) -> Outcome:
        """Return how it ended; one that hangs is killed, which fails the test."""
        hung = not self.ended(seconds)
        if hung:
            self.signal(signal.SIGKILL)
            self._process.join()
        log = self.folder / "log"
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
            struck=self.struck,
            forwards=oracle.forwards(self.folder / "forwards"),
            published=self.published,
            log=said,
        )


class Arena:
    """A small request, its undisturbed result, and stores to disturb.

    Parameters
    ----------
    folder
        Where everything lies.
    layers
        What is scored.
    """

    def __init__(self, folder: Path, layers: str = "blocks.1,norm") -> None:
        self.folder, self.layers = folder, layers
        furnisher = CONTEXT.Process(target=furnish, args=(folder, N_PHOTOGRAPHS))
        furnisher.start()
        furnisher.join()
        assert furnisher.exitcode == 0
        self.counts: Counter[str] = Counter()
        self.reference = folder / "reference"
        started = time.monotonic()
        self.undisturbed = self.start(self.reference).wait()
        self.seconds = time.monotonic() - started
        assert self.undisturbed.finished, self.undisturbed.log
        self.expected = oracle.published(self.reference)
        self._trees = {"all": sorted(oracle.tree(self.reference))}
        self._steps: dict[str, list[tuple[str, str]]] = {}

    def request(self, store: Path | str, **options: Any) -> ScoreRequest:
        """Return the request, on a store."""
        settings = {"synthetic_images": 6, "block_images": 4, "segment_images": 8}
        return ScoreRequest(
            checkpoint=str(self.folder / "checkpoint"),
            images=str(self.folder / "photographs"),
            settings=ScoreSettings(layers=self.layers, **settings),
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

    @contextmanager
    def at_least(self, kind: str, n: int) -> Iterator[None]:
        """Check that inside the block so many faults of a kind came."""
        before = self.counts[kind]
        yield
        came = self.counts[kind] - before
        assert came >= n or ONLY in os.environ, f"{came} faults of the kind {kind} came, of {n}"

    def steps(self, keep: str = "all") -> list[tuple[str, str]]:
        """Return the (step, path) of all changes that an undisturbed run makes to its store."""
        if keep not in self._steps:
            child = self.start(
                self.scratch() / "store", Fault("trace"), options={"keep_features": keep}
            )
            outcome = child.wait()
            assert outcome.finished, outcome.log
            lines = (child.folder / "steps").read_text().splitlines()
            self._steps[keep] = [
                (s, path) for s, _, path in (line.partition(" ") for line in lines)
            ]
        return self._steps[keep]

    def check_visible(self, store: Path) -> None:
        """Check that what can be seen is whole and right, however a run was disturbed."""
        assert self.differences(store) == []

    def differences(self, store: Path) -> list[str]:
        """Return which published products are not those of an undisturbed run, and why."""
        return oracle.differences(store, self.expected)

    def check_recovers(
        self,
        store: Path,
        *,
        keep: str = "all",
        exact: Literal["passes", "layers", ""] = "passes",
        complete: bool = True,
        **options: Any,
    ) -> Outcome:
        """Run the same command undisturbed, and check bytes, forward passes and leftovers.

        Parameters
        ----------
        keep
            Whether features are kept.
        exact
            Whether precisely the blocks that lack must go through the network: all layers that
            lack a block in one pass, or each in any. Leases that have to expire may have been
            taken on one layer and not yet on the next.
        complete
            Whether every product must be there, needed for another one or not.
        """
        needed = self.lacking(store, keep)
        outcome = self.start(store, options={"keep_features": keep, **options}).wait()
        assert outcome.finished, outcome.log
        if exact == "passes":
            assert outcome.forwards == needed
        elif exact == "layers":
            assert oracle.by_layer(outcome.forwards) == oracle.by_layer(needed)
        if complete:
            self.check_whole(store, keep)
        else:
            self.check_visible(store)
        return outcome

    def check_whole(self, store: Path, keep: str = "all") -> None:
        """Check that everything is there, byte by byte, and nothing else once it is cleaned."""
        self.check_visible(store)
        kinds = () if keep == "all" else ("features",)
        wanted = {address for address in self.expected if not address.startswith(kinds or "-")}
        assert set(oracle.published(store)) == wanted
        # What the killed left behind is known as such, and when that is gone all is as it was.
        works = Store(store, lease_seconds=0.5)
        for location, _ in works.abandoned(patience=2.0):
            works.discard(location)
        tree = [path for path in self._trees["all"] if not path.startswith(kinds or "-")]
        assert sorted(oracle.tree(store)) == tree

    def lacking(self, store: Path, keep: str = "all") -> oracle.Forwards:
        """Return the forward passes that a run on a store has to do."""
        kinds = ("features",) if keep == "all" else ("moments", "responses")
        return oracle.lacking(store, self.reference, kinds)

    def disturb(
        self,
        *faults: Fault,
        keep: Literal["all", "none"] = "all",
        sabotage: Callable[[Job], None] | None = None,
        **options: Any,
    ) -> Outcome:
        """Disturb runs on one store, one after the other, then check that the next one recovers."""
        place = self.scratch()
        store = place / "store"
        more: dict[str, Any] = {"options": {"keep_features": keep, **options}, "sabotage": sabotage}
        for number, fault in enumerate(faults or (None,)):
            outcome = self.start(store, fault, **more).wait()
            if fault and fault.kind in KILLS:
                assert outcome.exitcode == -signal.SIGKILL or not outcome.struck, outcome.log
            else:
                assert outcome.finished or outcome.clear, outcome.log
            # In a later run others' work is found: it may end before the step of its fault.
            assert outcome.struck or number, f"{fault or sabotage} never came"
            self.counts[fault.kind if fault else "sabotage"] += outcome.struck
            self.check_visible(store)
            # What was published stays so, whatever is done to the process, or to the machine.
            assert set(outcome.published) <= set(oracle.published(store)), "a product is gone"
        exact: Any = "layers" if any(fault.kind == "power" for fault in faults) else "passes"
        self.check_recovers(store, keep=keep, exact=exact, **options)
        shutil.rmtree(place)
        return outcome
