"""Survey a folder under watch: what is there, what is remembered, what is to be done.

The clock is given, so all of it runs without sleeping. Nothing here writes.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from soapworks.storage_schemas.layout.recipes import HeadRecipe
from soapworks.storage_schemas.leasing.lease_state import live_lease, read_lease
from soapworks.storage_schemas.leasing.observations import Observations
from soapworks.storage_schemas.store import KEY_DIGITS
from soapworks.tasks.watch.listing import list_checkpoints
from soapworks.tasks.watch.rules import CheckpointState, Decision, Verdict, decide
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.steps import order

POLL_SECONDS = 0.5
"""Seconds between two looks at the lease of another process."""

_NEWS = ("settling", "held", "waiting", "announced", "given up", "ignored")
_observed = Observations()


class Clock(Protocol):
    """The part of the module ``time`` that is needed."""

    def time(self) -> float: ...  # noqa: D102
    def monotonic(self) -> float: ...  # noqa: D102
    def sleep(self, seconds: float, /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Survey:
    """The decisions about all checkpoints in a folder."""

    decisions: tuple[Decision, ...]
    """One per checkpoint that is there, runs together, by ascending step."""

    def of(self, *verdicts: Verdict) -> list[Decision]:
        """Return the decisions with these verdicts."""
        return [decision for decision in self.decisions if decision.verdict in verdicts]


def survey(watch: Watch, *, clock: Clock = time, observed: Observations = _observed) -> Survey:
    """List the folder once and decide about every checkpoint.

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
    files = list_checkpoints(watch.folder, watch.watching.pattern)
    states = watch.read_all() if files else {}
    heads = heads_of(watch, states)
    here = watch.watching.start == "here"
    decisions = []
    for listed in sorted(files, key=lambda file: order(file.path)):
        name = (watch.folder.url, listed.path)
        unchanged_for = observed.unchanged_for(name, listed.fingerprint, clock.monotonic())
        decision = decide(
            replace(listed, unchanged_for=unchanged_for),
            states.get(listed.path),
            now=now_by(clock),
            heads=heads,
            options=watch.watching,
            here=here,
        )
        if decision.verdict == "due" and live_lease(
            watch.address(listed.path), default_seconds=watch.store.lease_seconds
        ):
            decision = Decision(decision.file, "held", "another process scores it")
        decisions.append(decision)
    return Survey(tuple(decisions))


def survey_when_stable(
    watch: Watch, *, clock: Clock = time, observed: Observations = _observed
) -> Survey:
    """Survey, and once more after the wait for what may still be written."""
    found = survey(watch, clock=clock, observed=observed)
    waits = [decision.wait or 0.0 for decision in found.of("settling")]
    if waits:
        clock.sleep(max(waits))
        found = survey(watch, clock=clock, observed=observed)
    return found


def wait_for_stale_leases(
    watch: Watch, *, clock: Clock = time, observed: Observations = _observed
) -> bool:
    """Wait until every lease on a checkpoint was renewed, released or has expired.

    A lease of another machine is known to be stale only once it was seen unchanged for its whole
    time, which a run that looks once and ends would never see.

    Returns
    -------
    bool
        Whether one of them was released or has expired, so that its checkpoint may be due.
    """
    held = survey(watch, clock=clock, observed=observed).of("held")
    leases = {
        decision.file.path: read_lease(watch.address(decision.file.path)) for decision in held
    }
    free = False
    while leases:
        for path, before in list(leases.items()):
            now = read_lease(watch.address(path), default_seconds=watch.store.lease_seconds)
            if now is None or now.expired:
                free = True
            elif before is not None and now.content == before.content:
                continue
            del leases[path]
        if leases:
            clock.sleep(POLL_SECONDS)
    return free


class StatusReporter:
    """Reports a line for each checkpoint whose state is news, and none twice.

    Parameters
    ----------
    report
        Called with each line.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._reported: dict[str, tuple[str, str]] | None = None

    def __call__(self, watch: Watch, found: Survey) -> None:
        """Report what is new in a survey."""
        if self._reported is None:
            self._reported = {}
            counts = Counter(decision.verdict for decision in found.decisions)
            parts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            n = len(found.decisions)
            self._report(
                f"watching {watch.folder}: {n} checkpoint{'' if n == 1 else 's'}"
                f"{f' ({parts})' if parts else ''}"
            )
        for decision in found.decisions:
            path, news = decision.file.path, (decision.verdict, decision.why)
            if decision.verdict in _NEWS and self._reported.get(path) != news:
                wait = ""
                if decision.verdict == "waiting" and decision.wait is not None:
                    wait = f" (again in {timedelta(seconds=round(decision.wait))})"
                self._report(f"{path}: {decision.verdict}: {decision.why.rstrip('.')}{wait}")
            self._reported[path] = news


def heads_of(watch: Watch, states: Mapping[str, CheckpointState]) -> frozenset[str]:
    """Return which of the remembered heads are still in the store: one listing."""
    wanted = {layer.key for state in states.values() for layer in state.scores}
    if not wanted:
        return frozenset()
    there = {address.name[-KEY_DIGITS:] for address in watch.store.addresses(HeadRecipe.kind)}
    return frozenset(key for key in wanted if key[:KEY_DIGITS] in there)


def now_by(clock: Clock) -> datetime:
    """Return the time by a clock."""
    return datetime.fromtimestamp(clock.time(), UTC)
