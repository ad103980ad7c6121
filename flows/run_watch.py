"""``soapworks watch`` as a command: round after round, the engine only where there is work."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from soapworks.errors import EngineError, InputError
from soapworks.flows.engine.settings import configured_api_url
from soapworks.images.listing import open_folder
from soapworks.storage_schemas.locations.failures import UnreachableError
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.watch.curves import are_behind
from soapworks.tasks.watch.rules import retry_delay
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import (
    Clock,
    StatusReporter,
    Survey,
    look,
    survey_when_stable,
    wait_for_stale_leases,
)

LEAST_PAUSE = 1.0
"""Shortest time between two rounds, seconds."""

Outcomes = list[dict[str, Any]]


def watch_once(watch: Watch, *, engine: Callable[[], Any]) -> Outcomes:
    """Do one round; return what became of each checkpoint that was due.

    Parameters
    ----------
    watch
        What is watched.
    engine
        Makes Prefect usable: a context manager, entered only where there is work.

    Raises
    ------
    SoapworksError
        What is not the matter of one checkpoint: folder, photographs, store, engine.
    """
    check(watch)
    outlook = survey_when_stable(watch)
    StatusReporter(_say)(watch, outlook)
    outcomes = _work(watch, outlook, engine)
    while wait_for_stale_leases(watch):
        outcomes += _work(watch, survey_when_stable(watch), engine)
    return outcomes


def keep_watching(
    watch: Watch, *, engine: Callable[[], Any], clock: Clock = time, rounds: int | None = None
) -> Outcomes:
    """Do round after round; what may pass is told and waited for.

    Parameters
    ----------
    watch, engine
        As in :func:`watch_once`.
    clock
        The clock.
    rounds
        After how many rounds to end; never by default.

    Raises
    ------
    SoapworksError
        What waiting will not mend.
    """
    check(watch)
    teller, outcomes, faults, worked = StatusReporter(_say), Outcomes(), 0, False
    while rounds is None or rounds > 0:
        try:
            outlook = survey_when_stable(watch, clock=clock)
            teller(watch, outlook)
            done = _work(watch, outlook, engine)
            worked = worked or bool(done)
            outcomes += done
            watch, faults = _without_retry(watch), 0
            pause = _pause(watch, look(watch, clock=clock) if done else outlook)
        except (UnreachableError, EngineError) as error:
            # An engine that never did its work is more likely to be wrongly set up than away.
            if isinstance(error, EngineError) and not worked:
                raise
            faults += 1
            interval = watch.watching.interval
            pause = retry_delay(faults, interval, max(interval, watch.watching.max_backoff_seconds))
            _say(f"{error} Looking again in {pause:g} s.")
        rounds = None if rounds is None else rounds - 1
        if rounds != 0:
            clock.sleep(pause)
    return outcomes


def check(watch: Watch) -> None:
    """Refuse what can be known to be wrong before the first look.

    Raises
    ------
    InputError
        No photographs; or events are to start the work, and no server would stay to do so.
    """
    open_folder(watch.images).list()
    if watch.watching.start == "event" and configured_api_url() is None:
        raise InputError(
            "start = event needs a Prefect server that stays, with a deployment that the event "
            "triggers: set PREFECT_API_URL, or leave --start out."
        )


def _work(watch: Watch, outlook: Survey, engine: Callable[[], Any]) -> Outcomes:
    if not outlook.of("due") and not are_behind(watch):
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


def _say(line: str) -> None:
    emit(Notice(line))


def _without_retry(watch: Watch) -> Watch:
    return replace(watch, watching=watch.watching.model_copy(update={"retry": False}))


def _pause(watch: Watch, outlook: Survey) -> float:
    """Return the time to the next look: what is waited for may be due before the interval ends."""
    waits = [one.wait for one in outlook.decisions if one.wait is not None]
    return max(LEAST_PAUSE, min([watch.watching.interval, *waits]))
