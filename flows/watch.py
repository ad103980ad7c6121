"""New checkpoints as they arrive, as flows: look and score, or score what an event names."""

import glob
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.events import emit_event

from soapworks.errors import EngineError, InputError, SoapworksError, user_message
from soapworks.flows.engine.artifacts import publish_curve
from soapworks.flows.score import score_checkpoints
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.events import Event, Notice, Waiting, emit, listening
from soapworks.tasks.settings import RunOptions, ScoreSettings
from soapworks.tasks.watch.curves import update_curves
from soapworks.tasks.watch.process import Outcome, take, take_due
from soapworks.tasks.watch.rules import CheckpointState
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.steps import step_of
from soapworks.tasks.watch.survey import StatusReporter, survey_when_stable, wait_for_stale_leases
from soapworks.tasks.watch_settings import WatchOptions

EVENT = "soapworks.checkpoint"
"""Events are named ``soapworks.checkpoint.arrived``, ``.scored`` and ``.failed``; the resource's id
is ``soapworks.checkpoint.<name>-<12 digits>``."""


@flow(name="watch", flow_run_name="watch {folder}")
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
        Folder that checkpoints come into, as a path or URL.
    images
        Folder of photographs, as a path or URL.
    architecture
        timm's name of the architecture, where the checkpoints do not name it.
    settings
        What the scores depend on.
    options
        Where and how the work is done.
    watching
        When a checkpoint counts as arrived, who scores it, and how failures are dealt with.
    rounds
        How often the folder is looked at, at the watch's interval; a schedule may do the rest.

    Returns
    -------
    list of dict
        What became of each checkpoint that was due.

    Raises
    ------
    SoapworksError
        What is not the matter of one checkpoint: the folder, the store, the photographs.
    """
    watch = Watch.of(folder, images, architecture or None, settings, options, watching)
    duties, teller = PrefectDuties(watch), StatusReporter(get_run_logger().info)
    outcomes: list[Outcome] = []
    with _notices_in_the_run_log():
        for number in range(rounds):
            if number:
                time.sleep(watch.watching.interval)
            while True:
                outlook = survey_when_stable(watch)
                teller(watch, outlook)
                outcomes += take_due(watch, outlook, duties)
                if number < rounds - 1 or not wait_for_stale_leases(watch):
                    break
    return [asdict(outcome) | {"scores": len(outcome.scores)} for outcome in outcomes]


@flow(name="score-arrival", flow_run_name="arrived {checkpoint}")
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
    parameter. Prefect delivers an event more than once or never; the first costs nothing here, and
    the watch emits again what nobody took up.

    Parameters
    ----------
    folder
        Folder under watch, as a path or URL.
    checkpoint
        The checkpoint: its path or URL, or its path below the folder.
    images, architecture, settings, options, watching
        As in :func:`watch_checkpoints`; what is remembered belongs to these.

    Returns
    -------
    dict
        What became of it.

    Raises
    ------
    SoapworksError
        Where scoring failed (which is remembered), or something is wrong with folder, store or
        photographs.
    """
    watching = watching or WatchOptions()
    path = checkpoint.rstrip("/")
    place = Watch.of(folder, images).folder
    path = path.removeprefix(f"{place.url}/")
    only = watching.model_copy(update={"start": "here", "pattern": glob.escape(path)})
    watch = Watch.of(folder, images, architecture or None, settings, options, only)
    with _notices_in_the_run_log():
        outlook = survey_when_stable(watch)
        found = [one for one in outlook.decisions if one.sighting.path == path]
        if not found and watch.read(path) is None:
            raise InputError(f"There is no checkpoint {path} in {place}: name one that is there.")
        if not found or found[0].verdict != "due":
            why = found[0].why if found else "went away"
            emit(Notice(f"{path}: nothing to do: {why}"))
            return asdict(Outcome(path, watch.checkpoint(path), "left", why)) | {"scores": 0}
        duties = PrefectDuties(watch)
        outcome = take(watch, found[0].sighting, duties)
        duties.draw()
    if outcome.outcome == "failed":
        raise SoapworksError(f"{outcome.checkpoint} failed: {outcome.why}.")
    return asdict(outcome) | {"scores": len(outcome.scores)}


class PrefectDuties:
    """Scores in sub-flows, tells by events and shows curves as artifacts.

    Parameters
    ----------
    watch
        What is watched.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def score(self, checkpoint: str) -> Sequence[LayerSummary]:
        """Score one checkpoint in a sub-flow.

        Raises
        ------
        EngineError
            Where the Prefect server is lost: no matter of the checkpoint's.
        """
        import httpx
        from prefect.exceptions import PrefectHTTPStatusError

        watch = self._watch
        try:
            rows = score_checkpoints(
                [checkpoint],
                watch.images,
                watch.architecture,
                settings=watch.settings,
                options=watch.options,
            )
            return [LayerSummary(**row) for row in rows]
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            raise EngineError(
                f"The Prefect server was lost ({type(error).__name__}): check that it runs, then "
                "start again."
            ) from error

    def user_message(self, error: BaseException) -> str:
        """Return what a person is told of an error."""
        return user_message(error)

    def tell(self, what: Literal["arrived", "scored", "failed"], arrival: CheckpointState) -> None:
        """Emit an event."""
        resource = {
            "prefect.resource.id": f"{EVENT}.{self._watch.address(arrival.path).name}",
            "prefect.resource.name": arrival.path,
        }
        payload = event_payload(self._watch, arrival)
        emit_event(f"{EVENT}.{what}", resource=resource, payload=payload)

    def draw(self) -> None:
        """Write the curves that have changed and show them; what fails is a warning."""
        try:
            for curve in update_curves(self._watch):
                publish_curve(curve, self._watch)
        except SoapworksError as error:
            get_run_logger().warning("the curves could not be drawn: %s", error)


def event_payload(watch: Watch, arrival: CheckpointState) -> dict[str, Any]:
    """Return what an event says: all parameters of :func:`score_arrival`, and the state."""
    step = step_of(arrival.path)
    return {
        "folder": watch.folder.url,
        "checkpoint": watch.checkpoint(arrival.path),
        "images": watch.images,
        "architecture": watch.architecture,
        "settings": watch.settings.model_dump(mode="json", exclude_defaults=True),
        # Whoever takes it up may have another working folder.
        "options": watch.options.model_dump(mode="json", exclude_defaults=True)
        | {"store": watch.store.url},
        "watching": watch.watching.model_dump(
            mode="json", exclude_defaults=True, exclude={"retry"}
        ),
        "path": arrival.path,
        "run": step.run if step else None,
        "unit": step.unit if step else None,
        "step": step.number if step else None,
        "status": arrival.status,
        "attempts": arrival.attempts,
        "reason": arrival.reason,
        "digest": arrival.digest,
        "top_si": {one.layer: one.top_si for one in arrival.scores},
        "remembered": watch.address(arrival.path).url,
    }


@contextmanager
def _notices_in_the_run_log() -> Iterator[None]:
    """Show what is told to people in the log of the flow run as well."""
    logger = get_run_logger()

    def listener(event: Event) -> None:
        if isinstance(event, Notice | Waiting):
            logger.info(event.message)

    with listening(listener):
        yield
