"""Score checkpoints as they arrive, as flows: all of a folder, or the one that an event names."""

import glob
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import httpx
from prefect import flow, get_run_logger, runtime
from prefect.context import hydrated_context, serialize_context
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError

from soapworks.errors import EngineError, InputError, SoapworksError, user_message
from soapworks.flows.engine.artifacts import publish_curve
from soapworks.flows.score import score_checkpoints
from soapworks.names import one_line
from soapworks.remote import copy_listeners
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.events import Event, Notice, Waiting, emit, listening
from soapworks.tasks.executors.child import call_in_child, heartbeat, relay_logs
from soapworks.tasks.settings import RunOptions, ScoreSettings, WatchOptions
from soapworks.tasks.watch.curves import update_curves
from soapworks.tasks.watch.process import Outcome, process_checkpoint, process_due
from soapworks.tasks.watch.rules import CheckpointState
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.steps import step_of
from soapworks.tasks.watch.survey import StatusReporter, survey_when_stable, wait_for_stale_leases

EVENT = "soapworks.checkpoint"
"""Events are named ``soapworks.checkpoint.arrived``, ``.scored`` and ``.failed``; the resource's id
is ``soapworks.checkpoint.<name>-<12 digits>``."""


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


class PrefectCallbacks:
    """Scores in sub-flows, notifies by events and shows curves as artifacts.

    Parameters
    ----------
    watch
        What is watched.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def score(self, checkpoint: str) -> Sequence[LayerSummary]:
        """Score one checkpoint in a sub-flow, in a process of its own.

        Raises
        ------
        StalledError
            It made no progress for the watch's ``stall_seconds``.
        EngineError
            The Prefect server is lost, for no fault of the checkpoint.
        """
        watch = self._watch
        rows = call_in_child(
            _score_in_child,
            _context_for_child(),
            checkpoint,
            watch.images,
            watch.architecture,
            watch.settings,
            watch.options,
            stall_seconds=watch.watching.stall_seconds,
        )
        return [LayerSummary(**row) for row in rows]

    def user_message(self, error: BaseException) -> str:
        """Return the user-facing message of an exception."""
        return user_message(error)

    def notify(self, what: Literal["arrived", "scored", "failed"], state: CheckpointState) -> None:
        """Emit an event."""
        resource = {
            "prefect.resource.id": f"{EVENT}.{self._watch.address(state.path).name}",
            "prefect.resource.name": state.path,
        }
        payload = event_payload(self._watch, state)
        emit_event(f"{EVENT}.{what}", resource=resource, payload=payload)

    def draw(self) -> None:
        """Write and show the curves that have changed; a failure is a warning."""
        try:
            for curve in update_curves(self._watch):
                publish_curve(curve, self._watch)
        except SoapworksError as error:
            get_run_logger().warning("the curves could not be drawn: %s", error)


def _context_for_child() -> bytes:
    """Return the running flow and Prefect's settings, for a sub-flow in another process."""
    context = serialize_context()
    # Of the flow only its task runner is used; a flow from a script could not be imported there.
    context["flow_run_context"].pop("flow", None)
    return pickle.dumps(context)


def _score_in_child(context: bytes, checkpoint: str, *arguments: Any) -> list[dict[str, Any]]:
    """Score one checkpoint; runs in a process of its own."""
    parent = pickle.loads(context)
    parent["flow_run_context"] = parent["flow_run_context"] | {"flow": score_checkpoints}
    images, architecture, settings, options = arguments
    with hydrated_context(parent):
        relay_logs()
        copy_listeners.append(lambda _: heartbeat())
        try:
            return score_checkpoints(
                [checkpoint], images, architecture, settings=settings, options=options
            )
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            raise EngineError(
                f"the Prefect server was lost ({type(error).__name__}): check that it runs, then "
                "start again"
            ) from error


def event_payload(watch: Watch, state: CheckpointState) -> dict[str, Any]:
    """Return an event's payload: all parameters of :func:`score_arrival`, and the state."""
    step = step_of(state.path)
    return {
        "folder": watch.folder.url,
        "checkpoint": watch.checkpoint(state.path),
        "images": watch.images,
        "architecture": watch.architecture,
        "settings": watch.settings.model_dump(mode="json", exclude_defaults=True),
        # The run that it triggers may have another working folder.
        "options": watch.options.model_dump(mode="json", exclude_defaults=True)
        | {"store": watch.store.url},
        "watching": watch.watching.model_dump(
            mode="json", exclude_defaults=True, exclude={"retry"}
        ),
        "path": state.path,
        "run": step.run if step else None,
        "unit": step.unit if step else None,
        "step": step.number if step else None,
        "status": state.status,
        "attempts": state.attempts,
        "reason": state.reason,
        "digest": state.digest,
        "top_si": {layer.layer: layer.top_si for layer in state.scores},
        "remembered": watch.address(state.path).url,
    }


@contextmanager
def _notices_in_the_run_log() -> Iterator[None]:
    """Show messages to the user in the log of the flow run as well."""
    logger = get_run_logger()

    def listener(event: Event) -> None:
        if isinstance(event, Notice | Waiting):
            logger.info(one_line(event.message))

    with listening(listener):
        yield
