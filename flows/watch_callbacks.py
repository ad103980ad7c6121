"""Callbacks of a watch within Prefect: scoring in sub-flows, events, artifacts of the curves."""

import pickle
from collections.abc import Sequence
from typing import Any, Literal

import httpx
from prefect import get_run_logger
from prefect.context import hydrated_context, serialize_context
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError

from soapworks.errors import EngineError, SoapworksError, user_message
from soapworks.flows.engine.artifacts import publish_curve
from soapworks.flows.score import score_checkpoints
from soapworks.remote import copy_listeners
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.executors.child import call_in_child, heartbeat, relay_logs
from soapworks.tasks.watch.curves import update_curves
from soapworks.tasks.watch.rules import CheckpointState
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.steps import step_of

EVENT = "soapworks.checkpoint"
"""Events are named ``soapworks.checkpoint.arrived``, ``.scored`` and ``.failed``; the resource's id
is ``soapworks.checkpoint.<name>-<12 digits>``."""


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
