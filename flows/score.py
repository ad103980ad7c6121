"""The main job as a Prefect flow: from checkpoints and photographs to scores and heads."""

from collections.abc import Sequence
from typing import Any, cast

from prefect import State, flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.artifacts import publish_summary
from tasks import stages
from tasks.events import stage
from tasks.planning import find_missing
from tasks.project import project, refuse_if_too_large
from tasks.request import ScoreRequest, plan_of
from tasks.settings import RunOptions, ScoreSettings
from tasks.stages import StageResult
from tasks.summarize import summarize


def run_name() -> str:
    """Return the name of the running flow: its first checkpoint and how many more."""
    first, *others = runtime.flow_run.parameters["checkpoints"]
    return f"score {first}" + (f" and {len(others)} more" if others else "")


@flow(name="score", flow_run_name=run_name)
def score_checkpoints(
    checkpoints: list[str],
    images: str,
    architecture: str | None = None,
    settings: ScoreSettings | None = None,
    options: RunOptions | None = None,
) -> list[dict[str, Any]]:
    """Score the layers of checkpoints and make a SOAP head for each.

    Parameters
    ----------
    checkpoints
        timm names, weights files, folders.
    images
        Folder of photographs, as a path or URL.
    architecture
        timm's name of the architecture, for weights files.
    settings
        What the scores depend on.
    options
        Where and how the work is done.

    Returns
    -------
    list of dict
        The summary: one row per (checkpoint, layer).
    """
    rows = []
    for checkpoint in checkpoints:
        request = ScoreRequest(
            checkpoint=checkpoint,
            architecture=architecture,
            images=images,
            settings=settings or ScoreSettings(),
            options=options or RunOptions(),
        )
        manifest = only_key(index_images(request))
        identity = only_key(identify_checkpoint(request))
        request = request.model_copy(update={"manifest": manifest, "identity": identity})
        plan = plan_of(request)
        store = request.store()
        keep_features = request.options.keep_features
        missing = find_missing(store, plan, keep_features)
        refuse_if_too_large(project(store, plan, missing, memory=request.options.memory), store)
        layers = [layer.subject.layer for layer in plan.layers]
        if keep_features == "all":
            score_from_features(request, layers)
        else:
            score_from_passes(request, layers)
        rows += summarize(store, plan, missing)
    publish_summary(rows)
    return rows


def score_from_features(request: ScoreRequest, layers: Sequence[str]) -> None:
    """Store the features of all images, and make everything else from them."""
    extract_features(request, "real")
    extract_features(request, "synthetic")
    with stage("score", request.checkpoint, len(layers), "layers") as advance:
        # Layer by layer: its features are still in the page cache when they are read again.
        for layer in layers:
            fit_components(request, layer)
            score_components(request, layer)
            export_head(request, layer)
            advance(1)


def score_from_passes(request: ScoreRequest, layers: Sequence[str]) -> None:
    """Store no features: the real images pass once for the components and once to be scored."""
    stream_moments(request)
    with stage("pca", request.checkpoint, len(layers), "layers") as advance:
        for layer in layers:
            fit_components(request, layer)
            advance(1)
    stream_responses(request, "real")
    stream_responses(request, "synthetic")
    with stage("score", request.checkpoint, len(layers), "layers") as advance:
        for layer in layers:
            score_components(request, layer)
            export_head(request, layer)
            advance(1)


@task(task_run_name="index · {request.images}", cache_policy=NO_CACHE)
def index_images(request: ScoreRequest) -> list[str]:
    """Find, check and digest the photographs."""
    return shown(stages.index_stage(request))


@task(task_run_name="identify · {request.checkpoint}", cache_policy=NO_CACHE)
def identify_checkpoint(request: ScoreRequest) -> list[str]:
    """Digest the checkpoint's tensors."""
    return shown(stages.identify_stage(request))


@task(task_run_name="extract {domain} · {request.checkpoint}", cache_policy=NO_CACHE)
def extract_features(request: ScoreRequest, domain: str) -> list[str]:
    """Run the forward passes that are missing."""
    return shown(stages.extract_stage(request, domain))


@task(task_run_name="extract real · {request.checkpoint}", cache_policy=NO_CACHE)
def stream_moments(request: ScoreRequest) -> list[str]:
    """Run the real images' first passes that are missing, for the moments of their features."""
    return shown(stages.moments_stage(request))


@task(task_run_name="respond {domain} · {request.checkpoint}", cache_policy=NO_CACHE)
def stream_responses(request: ScoreRequest, domain: str) -> list[str]:
    """Run the passes that are missing, for the responses of the components."""
    return shown(stages.responses_stage(request, domain))


@task(task_run_name="pca · {request.checkpoint} · {layer}", cache_policy=NO_CACHE)
def fit_components(request: ScoreRequest, layer: str) -> list[str]:
    """Fit the principal components out of core."""
    return shown(stages.pca_stage(request, layer))


@task(task_run_name="score · {request.checkpoint} · {layer}", cache_policy=NO_CACHE)
def score_components(request: ScoreRequest, layer: str) -> list[str]:
    """Count responses and score the components."""
    return shown(stages.score_stage(request, layer))


@task(task_run_name="head · {request.checkpoint} · {layer}", cache_policy=NO_CACHE)
def export_head(request: ScoreRequest, layer: str) -> list[str]:
    """Export the head."""
    return shown(stages.head_stage(request, layer))


def shown(result: StageResult) -> list[str]:
    """Return a stage's keys, in a state that shows as cached where nothing had to be done."""
    if result.cached:
        state: object = Completed(
            name="Cached", message="was in the store already", data=result.keys
        )
        return cast("list[str]", state)  # see only_key
    return result.keys


def only_key(keys: list[str]) -> str:
    """Return the one key that a task gave back; Prefect hands on a state as the state it is."""
    given: object = keys
    (key,) = given.result() if isinstance(given, State) else keys
    return key
