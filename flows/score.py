"""The main job as a Prefect flow: from checkpoints and images to scores and heads."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from prefect import State, flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from soapworks.errors import StoreError, user_message
from soapworks.flows.engine.artifacts import publish_pictures, publish_report, publish_summary
from soapworks.flows.engine.concurrency import forward_pass_limit
from soapworks.flows.engine.progress import showing_progress_artifacts
from soapworks.names import one_line
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks import run as stages
from soapworks.tasks.events import Notice, emit, stage
from soapworks.tasks.executors.connection import connected
from soapworks.tasks.plan.cost import project, refuse_if_too_large
from soapworks.tasks.plan.models import (
    ModelEntry,
    SomeFailedError,
    is_of_one_model,
    models_of,
    read_model_list,
)
from soapworks.tasks.plan.recipes import find_missing
from soapworks.tasks.plan.request import IndexRequest, PlannedRequest, ScoreRequest, plan_of
from soapworks.tasks.reports.leaderboard import update_leaderboard
from soapworks.tasks.reports.page import write_report
from soapworks.tasks.reports.response_maps import top_components
from soapworks.tasks.reports.summary import summarize
from soapworks.tasks.run import StageResult
from soapworks.tasks.settings import KeepFeatures, RunOptions, ScoreSettings

Keys = list[str] | State[list[str]]
"""What a task returns: its keys, or the state that holds them, which Prefect hands on as it is."""


def run_name() -> str:
    """Return the name of the running flow: its first checkpoint and how many more."""
    given = runtime.flow_run.parameters
    first, *others = [_name(one) for one in given["checkpoints"]] or [str(given["model_list"])]
    return f"score {one_line(first)}" + (f" and {len(others)} more" if others else "")


@flow(name="score", flow_run_name=run_name)
def score_checkpoints(
    checkpoints: list[str | ModelEntry],
    images: str,
    architecture: str | None = None,
    settings: ScoreSettings | None = None,
    options: RunOptions | None = None,
    model_list: str | None = None,
) -> list[dict[str, Any]]:
    """Score the layers of checkpoints and make a SOAP head for each.

    Parameters
    ----------
    checkpoints
        timm names, weights files, folders, URLs; or entries with settings of their own.
    images
        Folder of images, as a path or URL.
    architecture
        timm's name of the architecture, for weights files.
    settings
        What the scores depend on.
    options
        Where and how the work is done.
    model_list
        Path or URL of a YAML list of more checkpoints, read when the run starts.

    Returns
    -------
    list of dict
        The summary: one row per (checkpoint, layer).

    Raises
    ------
    SomeFailedError
        Where models of several failed, once all others are done; with one model, its own error.
    """
    settings, options = settings or ScoreSettings(), options or RunOptions()
    listed = read_model_list(model_list) if model_list else []
    models = models_of([*checkpoints, *listed], architecture or None)
    index = IndexRequest(images=images, settings=settings, options=options)
    with showing_progress_artifacts():
        manifest = only_key(index_images(index))
    layers: list[LayerSummary] = []
    failures: dict[str, str] = {}
    for model in models:
        state: State[list[LayerSummary]] = score_checkpoint(
            model, images, manifest, settings, options, return_state=True
        )
        result = state.result(raise_on_failure=False)
        if not isinstance(result, BaseException):
            layers += result
        elif len(models) > 1 and is_of_one_model(result):
            failures[model.checkpoint] = user_message(result)
            emit(Notice(f"{model.checkpoint} failed: {failures[model.checkpoint]}"))
        else:
            raise result
    publish_summary(layers)
    if layers:
        keep_leaderboard(index, layers)
    if failures:
        raise SomeFailedError(failures, layers)
    return [layer.model_dump() for layer in layers]


@flow(name="score-checkpoint", flow_run_name="score {model.label}")
def score_checkpoint(
    model: ModelEntry, images: str, manifest: str, settings: ScoreSettings, options: RunOptions
) -> list[LayerSummary]:
    """Score the layers of one checkpoint and make a SOAP head for each.

    Parameters
    ----------
    model
        The checkpoint, and what it has of its own.
    images
        Folder of images, as a path or URL.
    manifest
        Key of the images' manifest.
    settings, options
        The run's.

    Returns
    -------
    list of LayerSummary
        A summary per layer.
    """
    asked = model.request(images, settings, options)
    request = asked.planned(manifest, only_key(identify_checkpoint(asked)))
    store = request.store()
    plan = plan_of(request)
    missing = find_missing(store, plan, options.keep_features)
    layers = [layer.subject.layer for layer in plan.layers]
    cluster = connected(options.dask if missing else None)  # one connection for all stages
    with cluster, showing_progress_artifacts():
        with forward_pass_limit(options) if missing.features else nullcontext():
            settled = stages.settle(request, check_room, *passes(options.keep_features))
        if settled != request:
            plan = plan_of(settled)
            missing = find_missing(store, plan, options.keep_features)
        score_layers(settled, layers)
    summaries = summarize(store, plan, missing)
    if options.report and missing:
        write_checkpoint_report(request, summaries)
    return summaries


def passes(keep_features: KeepFeatures) -> list[Callable[[PlannedRequest], object]]:
    """Return the passes over the images, in order.

    Without features the real images pass once for the components and once to be scored.
    """
    if keep_features == "all":
        return [partial(extract_features, domain=domain) for domain in ("real", "synthetic")]
    scored = [partial(stream_responses, domain=domain) for domain in ("real", "synthetic")]
    return [stream_moments, fit_all_components, *scored]


def check_room(request: PlannedRequest) -> None:
    """Refuse a run for which the store has no room."""
    store, plan, options = request.store(), plan_of(request), request.options
    missing = find_missing(store, plan, options.keep_features)
    refuse_if_too_large(project(store, plan, missing, memory=options.memory), store)


def fit_all_components(request: PlannedRequest) -> None:
    """Fit the components of all layers."""
    layers = plan_of(request).layers
    with stage("pca", request.checkpoint, len(layers), "layers") as advance:
        for layer in layers:
            fit_components(request, layer.subject.layer)
            advance(1)


def score_layers(request: PlannedRequest, layers: Sequence[str]) -> None:
    """Make components, scores and heads from what the passes left in the store."""
    streamed = request.options.keep_features == "none"
    with stage("score", request.checkpoint, len(layers), "layers") as advance:
        # Layer by layer: its features are still in the page cache when they are read again.
        for layer in layers:
            if not streamed:
                fit_components(request, layer)
            score_components(request, layer)
            export_head(request, layer)
            advance(1)


@task(task_run_name="index {request.folder_label}", cache_policy=NO_CACHE)
def index_images(request: IndexRequest) -> Keys:
    """Find, check and digest the images."""
    return shown(stages.index_stage(request))


@task(task_run_name="identify {request.label}", cache_policy=NO_CACHE)
def identify_checkpoint(request: ScoreRequest) -> Keys:
    """Digest the checkpoint's tensors."""
    return shown(stages.identify_stage(request))


@task(task_run_name="extract {request.label} · {domain}", cache_policy=NO_CACHE)
def extract_features(request: PlannedRequest, domain: str) -> Keys:
    """Run the forward passes that are missing."""
    return shown(stages.extract_stage(request, domain))


@task(task_run_name="extract {request.label} · real", cache_policy=NO_CACHE)
def stream_moments(request: PlannedRequest) -> Keys:
    """Run the real images' first passes that are missing, for the moments of their features."""
    return shown(stages.moments_stage(request))


@task(task_run_name="respond {request.label} · {domain}", cache_policy=NO_CACHE)
def stream_responses(request: PlannedRequest, domain: str) -> Keys:
    """Run the passes that are missing, for the responses of the components."""
    return shown(stages.responses_stage(request, domain))


@task(task_run_name="pca {request.label} · {layer}", cache_policy=NO_CACHE)
def fit_components(request: PlannedRequest, layer: str) -> Keys:
    """Fit the principal components out of core."""
    return shown(stages.pca_stage(request, layer))


@task(task_run_name="score {request.label} · {layer}", cache_policy=NO_CACHE)
def score_components(request: PlannedRequest, layer: str) -> Keys:
    """Count responses and score the components."""
    return shown(stages.score_stage(request, layer))


@task(task_run_name="head {request.label} · {layer}", cache_policy=NO_CACHE)
def export_head(request: PlannedRequest, layer: str) -> Keys:
    """Export the head."""
    return shown(stages.head_stage(request, layer))


@task(task_run_name="leaderboard {request.options.store}", cache_policy=NO_CACHE)
def keep_leaderboard(request: IndexRequest, layers: list[LayerSummary]) -> None:
    """Bring the store's leaderboard up to date; it can be made again from the store at any time."""
    try:
        update_leaderboard(request.store(), layers)
    except StoreError as error:
        emit(Notice(f"the leaderboard could not be brought up to date: {error}"))


@task(task_run_name="report {request.label}", cache_policy=NO_CACHE)
def write_checkpoint_report(request: PlannedRequest, layers: list[LayerSummary]) -> None:
    """Write the checkpoint's report and show it; soapworks report makes it again at any time."""
    store, plan = request.store(), plan_of(request)
    top, top_plan = max(zip(layers, plan.layers, strict=True), key=lambda pair: pair[0].order)
    try:
        place = write_report(store, plan, top.checkpoint)
        publish_report(layers, place, reports_url=request.options.reports_url)
        picture = top_components(store, top_plan)
        publish_pictures(request.checkpoint, top.layer, picture, place.name)
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        emit(Notice(f"{request.checkpoint}: the report is not whole: {user_message(error)}"))


def shown(result: StageResult) -> Keys:
    """Return a stage's keys, in a state that shows as cached where nothing had to be done."""
    if not result.cached:
        return result.keys
    return Completed(name="Cached", message="was in the store already", data=result.keys)


def only_key(keys: Keys) -> str:
    """Return the only key that a task returned."""
    (key,) = keys.result() if isinstance(keys, State) else keys
    return str(key)


def _name(checkpoint: object) -> str:
    """Return a checkpoint's identifier, given as such or in an entry."""
    if isinstance(checkpoint, dict):
        return str(checkpoint.get("checkpoint"))
    return checkpoint.checkpoint if isinstance(checkpoint, ModelEntry) else str(checkpoint)
