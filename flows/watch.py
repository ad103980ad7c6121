"""Score checkpoints as they arrive, as flows: all of a folder, or the one that an event names."""

import glob
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from prefect import flow, get_run_logger, runtime

from soapworks.errors import InputError, SoapworksError
from soapworks.flows.watch_callbacks import PrefectCallbacks
from soapworks.names import one_line
from soapworks.tasks.events import Event, Notice, Waiting, emit, listening
from soapworks.tasks.settings import RunOptions, ScoreSettings, WatchOptions
from soapworks.tasks.watch.process import Outcome, process_checkpoint, process_due
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import StatusReporter, survey_when_stable, wait_for_stale_leases


def _run_name(verb: str, parameter: str) -> Callable[[], str]:
    """Return what names a flow run after one of its parameters, as it may be printed."""
    return lambda: f"{verb} {one_line(runtime.flow_run.parameters[parameter])}"


@flow(name="watch", flow_run_name=_run_name("watch", "folder"))
def watch_checkpoints(
    folder: str,
    images: str,
    architecture: str | None = None,
    settings: ScoreSettings | None = None,
    options: RunOptions | None = None,
    watching: WatchOptions | None = None,
    rounds: int = 1,
) -> list[dict[str, Any]]:
    """Score the checkpoints that are new or changed in a folder, each once; draw their curves.

    Parameters
    ----------
    folder
        Folder that checkpoints are saved to, as a path or URL.
    images
        Folder of images, as a path or URL.
    architecture
        timm's name of the architecture, where the checkpoints do not name it.
    settings
        What the scores depend on.
    options
        Where and how the work is done.
    watching
        What counts as a checkpoint, who scores it, and the retries.
    rounds
        Number of surveys of the folder, an interval apart; a schedule may do the rest.

    Returns
    -------
    list of dict
        The outcome for each checkpoint that was due.

    Raises
    ------
    SoapworksError
        An error of more than one checkpoint: of the folder, the store, the images.
    """
    watch = Watch.of(folder, images, architecture or None, settings, options, watching)
    callbacks, report = PrefectCallbacks(watch), StatusReporter(get_run_logger().info)
    outcomes: list[Outcome] = []
    with _notices_in_the_run_log():
        for number in range(rounds):
            if number:
                time.sleep(watch.watching.interval)
            while True:
                found = survey_when_stable(watch)
                report(watch, found)
                outcomes += process_due(watch, found, callbacks)
                if number < rounds - 1 or not wait_for_stale_leases(watch):
                    break
    return [asdict(outcome) | {"scores": len(outcome.scores)} for outcome in outcomes]


@flow(name="score-arrival", flow_run_name=_run_name("arrived", "checkpoint"))
def score_arrival(
    folder: str,
    checkpoint: str,
    images: str,
    architecture: str | None = None,
    settings: ScoreSettings | None = None,
    options: RunOptions | None = None,
    watching: WatchOptions | None = None,
) -> dict[str, Any]:
    """Score one checkpoint that has arrived, unless it is scored or being scored.

    For a deployment that ``soapworks.checkpoint.arrived`` triggers: the event's payload has every
    parameter. Prefect may deliver an event twice, which costs nothing here, or never: then the
    watch emits it again.

    Parameters
    ----------
    folder
        Folder under watch, as a path or URL.
    checkpoint
        The checkpoint: its path or URL, or its path below the folder.
    images, architecture, settings, options, watching
        As in :func:`watch_checkpoints`; the remembered state belongs to these.

    Returns
    -------
    dict
        Its outcome.

    Raises
    ------
    SoapworksError
        Where scoring failed (which is remembered), or for an error of folder, store or images.
    """
    watching = watching or WatchOptions()
    path = checkpoint.rstrip("/")
    place = Watch.of(folder, images).folder
    path = path.removeprefix(f"{place.url}/")
    only = watching.model_copy(update={"start": "here", "pattern": glob.escape(path)})
    watch = Watch.of(folder, images, architecture or None, settings, options, only)
    with _notices_in_the_run_log():
        found = [d for d in survey_when_stable(watch).decisions if d.file.path == path]
        if not found and watch.read(path) is None:
            raise InputError(f"there is no checkpoint {path} in {place}: name one that is there")
        if not found or found[0].verdict != "due":
            why = found[0].why if found else "vanished"
            emit(Notice(f"{path}: nothing to do: {why}"))
            return asdict(Outcome(path, watch.checkpoint(path), "left", why)) | {"scores": 0}
        callbacks = PrefectCallbacks(watch)
        outcome = process_checkpoint(watch, found[0].file, callbacks)
        callbacks.draw()
    if outcome.outcome == "failed":
        raise SoapworksError(f"{outcome.checkpoint} failed: {outcome.why}")
    return asdict(outcome) | {"scores": len(outcome.scores)}


@contextmanager
def _notices_in_the_run_log() -> Iterator[None]:
    """Show messages to the user in the log of the flow run as well."""
    logger = get_run_logger()

    def listener(event: Event) -> None:
        if isinstance(event, Notice | Waiting):
            logger.info(one_line(event.message))

    with listening(listener):
        yield
