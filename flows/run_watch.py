"""Run ``soapworks watch``: round after round, with the engine only where there is work."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from soapworks.errors import EngineError, InputError, UnreachableError
from soapworks.flows.engine.configuration import configured_api_url
from soapworks.flows.run_score import check_store
from soapworks.images.listing import open_folder
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.watch.curves import are_behind
from soapworks.tasks.watch.rules import retry_delay
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import (
    Clock,
    StatusReporter,
    Survey,
    survey,
    survey_when_stable,
    wait_for_stale_leases,
)

LEAST_PAUSE = 1.0
"""Shortest time between two rounds, seconds."""

Outcomes = list[dict[str, Any]]


def watch_once(watch: Watch, *, engine: Callable[[], Any]) -> Outcomes:
    """Do one round; return the outcome for each checkpoint that was due.

    Parameters
    ----------
    watch
        What is watched.
    engine
        Makes Prefect usable: a context manager, entered only where there is work.

    Raises
    ------
    SoapworksError
        An error of more than one checkpoint: of folder, images, store or engine.
    """
    check(watch)
    found = survey_when_stable(watch)
    StatusReporter(_report)(watch, found)
    outcomes = _work(watch, found, engine)
    while wait_for_stale_leases(watch):
        outcomes += _work(watch, survey_when_stable(watch), engine)
    return outcomes


def keep_watching(
    watch: Watch, *, engine: Callable[[], Any], clock: Clock = time, rounds: int | None = None
) -> Outcomes:
    """Do round after round; report what may pass, and wait for it.

    Parameters
    ----------
    watch, engine
        As in :func:`watch_once`.
    clock
        The clock.
    rounds
        Number of rounds; unlimited by default.

    Raises
    ------
    SoapworksError
        An error that will not go away by waiting.
    """
    check(watch)
    reporter, outcomes, faults, worked = StatusReporter(_report), Outcomes(), 0, False
    while rounds is None or rounds > 0:
        try:
            found = survey_when_stable(watch, clock=clock)
            reporter(watch, found)
            done = _work(watch, found, engine)
            worked = worked or bool(done)
            outcomes += done
            options = watch.watching.model_copy(update={"retry": False})
            watch, faults = replace(watch, watching=options), 0
            pause = _pause(watch, survey(watch, clock=clock) if done else found)
        except (UnreachableError, EngineError) as error:
            # An engine that never worked is more likely to be misconfigured than unreachable.
            if isinstance(error, EngineError) and not worked:
                raise
            faults += 1
            interval = watch.watching.interval
            pause = retry_delay(faults, interval, max(interval, watch.watching.max_backoff_seconds))
            _report(f"{str(error).rstrip('.')}; trying again in {pause:g} s")
        rounds = None if rounds is None else rounds - 1
        if rounds != 0:
            clock.sleep(pause)
    return outcomes


def check(watch: Watch) -> None:
    """Refuse what can be known to be wrong before the first survey.

    Raises
    ------
    InputError
        No images; or events are to start the work, without a permanent server to do so.
    """
    open_folder(watch.images).list()
    check_store(watch.store)
    if watch.watching.start == "event" and configured_api_url() is None:
        raise InputError(
            "start = event needs a permanent Prefect server, with a deployment that the event "
            "triggers: set PREFECT_API_URL, or leave --start out"
        )


def _work(watch: Watch, found: Survey, engine: Callable[[], Any]) -> Outcomes:
    if not found.of("due") and not are_behind(watch):
        return []
    with engine():
        from soapworks.flows.watch import watch_checkpoints

        return watch_checkpoints(
            watch.folder.url,
            watch.images,
            watch.architecture,
            settings=watch.settings,
            options=watch.options,
            watching=watch.watching,
        )


def _report(line: str) -> None:
    emit(Notice(line))


def _pause(watch: Watch, found: Survey) -> float:
    """Return the time to the next survey: a wait may end before the interval does."""
    waits = [decision.wait for decision in found.decisions if decision.wait is not None]
    return max(LEAST_PAUSE, min([watch.watching.interval, *waits]))
