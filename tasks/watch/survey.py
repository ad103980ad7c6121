"""Look at a folder under watch: what is there, what is remembered, what is to be done.

The clock is given, so all of it runs without sleeping. Nothing here writes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from soapworks.storage_schemas.layout.recipes import HeadRecipe
from soapworks.storage_schemas.leasing.lease_state import live_lease, read_lease
from soapworks.storage_schemas.leasing.observations import Observations
from soapworks.storage_schemas.store import KEY_DIGITS
from soapworks.tasks.watch.listing import list_checkpoints
from soapworks.tasks.watch.rules import CheckpointFile, CheckpointState, Decision, Verdict, decide
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.steps import order

POLL_SECONDS = 0.5
"""How often a process that waits for another's sign of life looks again, seconds."""


class Clock(Protocol):
    """What is needed of the module ``time``."""

    def time(self) -> float: ...  # noqa: D102
    def monotonic(self) -> float: ...  # noqa: D102
    def sleep(self, seconds: float, /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Survey:
    """What a look at the folder came to."""

    decisions: tuple[Decision, ...]
    """One per checkpoint that is there, runs together, by ascending step."""

    def of(self, *verdicts: Verdict) -> list[Decision]:
        """Return the decisions with these verdicts."""
        return [decision for decision in self.decisions if decision.verdict in verdicts]


_observed = Observations()


def look(watch: Watch, *, clock: Clock = time, observed: Observations = _observed) -> Survey:
    """Look once and decide about every checkpoint; writes nothing.

    Parameters
    ----------
    watch
        What is watched.
    clock
        The clock.
    observed
        What this process has seen before.

    Raises
    ------
    InputError
        A folder that is not there or must not be listed.
    StoreError
        A storage that fails; ``UnreachableError`` where that may pass.
    """
    sightings = list_checkpoints(watch.folder, watch.watching.pattern)
    arrivals = watch.read_all() if sightings else {}
    heads = heads_of(watch, arrivals)
    here = watch.watching.start == "here"
    decisions = []
    for sighting in sorted(sightings, key=lambda one: order(one.path)):
        unchanged_for = observed.unchanged_for(
            (watch.folder.url, sighting.path), sighting.fingerprint, clock.monotonic()
        )
        seen = replace(sighting, unchanged_for=unchanged_for)
        arrival = arrivals.get(seen.path)
        decision = decide_about(watch, seen, arrival, clock, heads, here=here)
        if decision.verdict == "due" and live_lease(
            watch.address(seen.path), default_seconds=watch.store.lease_seconds
        ):
            decision = decide_about(watch, seen, arrival, clock, heads, here=here, held=True)
        decisions.append(decision)
    return Survey(tuple(decisions))


def survey_when_stable(
    watch: Watch, *, clock: Clock = time, observed: Observations = _observed
) -> Survey:
    """Look, and where something may still be written look again once it could have settled."""
    outlook = look(watch, clock=clock, observed=observed)
    waits = [decision.wait or 0.0 for decision in outlook.of("settling")]
    if waits:
        clock.sleep(max(waits))
        outlook = look(watch, clock=clock, observed=observed)
    return outlook


def wait_for_stale_leases(
    watch: Watch, *, clock: Clock = time, observed: Observations = _observed
) -> bool:
    """Wait until every process that is at a checkpoint has shown a sign of life, or has not.

    A lease of another machine is known to be dead only once it was seen unchanged for its whole
    time; a run that looks once and ends would never see that.

    Returns
    -------
    bool
        Whether one of them is dead, so that its checkpoint is due.
    """
    held = look(watch, clock=clock, observed=observed).of("held")
    leases = {one.sighting.path: read_lease(watch.address(one.sighting.path)) for one in held}
    died = False
    while leases:
        for path, before in list(leases.items()):
            now = read_lease(watch.address(path), default_seconds=watch.store.lease_seconds)
            if now is None or now.expired:
                died = True
            elif before is not None and now.content == before.content:
                continue
            del leases[path]
        if leases:
            clock.sleep(POLL_SECONDS)
    return died


class StatusReporter:
    """Tells a line for each checkpoint whose state is news, and none twice.

    Parameters
    ----------
    say
        Takes a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: dict[str, tuple[str, str]] = {}
        self._first = True

    def __call__(self, watch: Watch, outlook: Survey) -> None:
        """Tell what is new in an outlook."""
        if self._first:
            self._first = False
            counts: dict[str, int] = {}
            for decision in outlook.decisions:
                counts[decision.verdict] = counts.get(decision.verdict, 0) + 1
            parts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            n = len(outlook.decisions)
            self._say(
                f"watching {watch.folder}: {n} checkpoint{'' if n == 1 else 's'}"
                f"{f' ({parts})' if parts else ''}"
            )
        for decision in outlook.decisions:
            news = (decision.verdict, decision.why)
            if decision.verdict in _NEWS and self._told.get(decision.sighting.path) != news:
                wait = ""
                if decision.verdict == "waiting" and decision.wait is not None:
                    wait = f" (again in {timedelta(seconds=round(decision.wait))})"
                why = decision.why.rstrip(".")
                self._say(f"{decision.sighting.path}: {decision.verdict}: {why}{wait}")
            self._told[decision.sighting.path] = news


_NEWS = ("settling", "held", "waiting", "announced", "given up")


def decide_about(
    watch: Watch,
    sighting: CheckpointFile,
    arrival: CheckpointState | None,
    clock: Clock,
    heads: frozenset[str],
    *,
    here: bool,
    held: bool = False,
) -> Decision:
    """Return the decision about one checkpoint; see :func:`soapworks.tasks.watch.rules.decide`."""
    return decide(
        sighting,
        arrival,
        now=now_by(clock),
        held=held,
        heads=heads,
        options=watch.watching,
        here=here,
    )


def heads_of(watch: Watch, arrivals: Mapping[str, CheckpointState]) -> frozenset[str]:
    """Return which of the remembered heads are still in the store: one listing."""
    wanted = {one.key for arrival in arrivals.values() for one in arrival.scores}
    if not wanted:
        return frozenset()
    there = {address.name[-KEY_DIGITS:] for address in watch.store.addresses(HeadRecipe.kind)}
    return frozenset(key for key in wanted if key[:KEY_DIGITS] in there)


def now_by(clock: Clock) -> datetime:
    """Return the time by a clock."""
    return datetime.fromtimestamp(clock.time(), UTC)
