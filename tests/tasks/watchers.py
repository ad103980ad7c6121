"""Stand-ins for a test of watching: a clock that is moved, a scorer that computes nothing."""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.leasing.observations import Observations
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.settings import RunOptions, WatchOptions
from soapworks.tasks.watch.curves import update_curves
from soapworks.tasks.watch.process import Outcome, process_due
from soapworks.tasks.watch.rules import CheckpointState
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import Survey, survey_when_stable


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1.8e9
        self.slept: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.meanwhile()


class WatchCallbacks:
    """Counts what it is asked to do; a file that starts with ``bad`` fails with ``fault``."""

    def __init__(self, watch: Watch, fault: BaseException | None = None) -> None:
        self.watch = watch
        self.fault = fault
        self.scored: list[str] = []
        self.draws = False
        self.notified: list[tuple[str, str, int]] = []
        self.before: Callable[[str], None] = lambda checkpoint: None

    def score(self, checkpoint: str) -> list[LayerSummary]:
        self.scored.append(checkpoint.rpartition("/")[2])
        self.before(checkpoint)
        content = Location(checkpoint).read_bytes()
        if content.startswith(b"bad"):
            raise self.fault or RuntimeError("out of luck")
        return [
            row(self.watch, checkpoint, "blocks.0", content),
            row(self.watch, "", "norm", content),
        ]

    def user_message(self, error: BaseException) -> str:
        return str(error)

    def notify(self, what: str, state: CheckpointState) -> None:
        self.notified.append((what, state.path, state.attempts))

    def draw(self) -> None:
        if self.draws:
            update_curves(self.watch)


def row(watch: Watch, checkpoint: str, layer: str, content: bytes) -> LayerSummary:
    """Return a summary, with a folder where its head would lie; numbers depend on content."""
    key = hashlib.sha256(layer.encode() + content).hexdigest()
    head = watch.store.location / f"heads/toy-{key[:12]}"
    (head / "recipe.json").write_bytes(b"{}")
    return LayerSummary(
        checkpoint=checkpoint,
        layer=layer,
        top_si=0.7 + key.encode()[0] / 1000,
        top_standard_error=0.01,
        top_component=2,
        n_invariant=len(content),
        invariant_variance_share=0.125,
        n_suppressed=2,
        n_components=24,
        n_real=9,
        n_synthetic=6,
        cached=False,
        key=key,
        head=head.url,
    )


class Watcher:
    """A process that watches, as far as a test cares: its own observations, a clock, callbacks."""

    def __init__(self, watch: Watch, clock: Clock, fault: BaseException | None = None) -> None:
        self.watch, self.clock, self.observed = watch, clock, Observations()
        self.callbacks = WatchCallbacks(watch, fault)

    def survey(self) -> Survey:
        return survey_when_stable(self.watch, clock=self.clock, observed=self.observed)

    def round(self) -> list[Outcome]:
        return process_due(self.watch, self.survey(), self.callbacks, clock=self.clock)

    def verdicts(self) -> dict[str, str]:
        return {one.file.path: one.verdict for one in self.survey().decisions}


def make_watch(place: Path, **options: Any) -> Watch:
    """Return the watch of ``place/checkpoints``, into ``place/store``."""
    run = {"store": str(place / "store")}
    if "lease_seconds" in options:
        run["lease_seconds"] = options.pop("lease_seconds")
    return Watch.of(
        str(place / "checkpoints"),
        str(place / "photographs"),
        options=RunOptions(**run),
        watching=WatchOptions(**options),
    )


def child(place: Path) -> None:
    """Watch for one round in a process of its own; every scoring is a line in ``place/log``."""
    watcher = Watcher(make_watch(place, stable_seconds=0), Clock())

    def before(checkpoint: str) -> None:
        with (place / "log").open("a") as log:
            log.write(checkpoint.rpartition("/")[2] + "\n")
        if (place / "block").exists():
            print("scoring", flush=True)  # noqa: T201
            sys.stdin.readline()
        time.sleep(0.02)

    watcher.callbacks.before = before
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    print([outcome.outcome for outcome in watcher.round()], flush=True)  # noqa: T201


if __name__ == "__main__":
    child(Path(sys.argv[1]))
