"""One run from the command line: ask the store first, start the workflow engine only for work."""

from collections.abc import Callable, Sequence
from typing import Any

from storage_schemas.store import Store
from tasks.identify import known_identity, look_at, read_identity
from tasks.index_images import known_images, scan_images
from tasks.planning import CheckpointPlan, find_missing, plan_checkpoint
from tasks.project import Projection, project
from tasks.settings import RunOptions, ScoreSettings
from tasks.summarize import summarize

Rows = list[dict[str, Any]]


def cached_rows(
    checkpoints: Sequence[str],
    images: str,
    architecture: str | None,
    settings: ScoreSettings,
    options: RunOptions,
) -> Rows | None:
    """Return the summary if the store has everything, else None; needs neither torch nor Prefect.

    Raises
    ------
    InputError
        Where the photographs cannot be listed or the settings do not fit the checkpoint.
    """
    store = Store(options.store, lease_seconds=options.lease_seconds)
    manifest = known_images(store, images, settings)
    if manifest is None:
        return None
    rows = []
    for checkpoint in checkpoints:
        product = known_identity(store, checkpoint, architecture)
        if product is None:
            return None
        plan = plan_checkpoint(read_identity(product), manifest, settings)
        missing = find_missing(store, plan)
        if missing:
            return None
        rows += summarize(store, plan, missing)
    return rows


def check_request(checkpoint: str, architecture: str | None, settings: ScoreSettings) -> None:
    """Raise what can be known to be wrong before the engine is started.

    Raises
    ------
    CheckpointError, LayerError, InputError
        A checkpoint that cannot be found, an unknown layer, an image size that does not fit.
    """
    from soapworks.backbones import describe_checkpoint, open_checkpoint

    found = open_checkpoint(checkpoint, architecture=architecture)
    describe_checkpoint(found, image_size=settings.image_size).resolve_layers(settings.layers)


def plan_run(
    checkpoints: Sequence[str],
    images: str,
    architecture: str | None,
    settings: ScoreSettings,
    options: RunOptions,
) -> list[tuple[CheckpointPlan, Projection]]:
    """Return plan and projection of every checkpoint; reads files, writes nothing.

    Raises
    ------
    SoapworksError
        Whatever would stop the run before its first forward pass.
    """
    store = Store(options.store, lease_seconds=options.lease_seconds)
    manifest = scan_images(store, images, settings, workers=options.workers)
    result = []
    for checkpoint in checkpoints:
        known = known_identity(store, checkpoint, architecture)
        identity = read_identity(known) if known else look_at(checkpoint, architecture)
        plan = plan_checkpoint(identity, manifest, settings)
        missing = find_missing(store, plan, options.keep_features)
        result.append((plan, project(store, plan, missing, memory=options.memory)))
    return result


def score(
    checkpoints: Sequence[str],
    images: str,
    architecture: str | None,
    settings: ScoreSettings,
    options: RunOptions,
    *,
    engine: Callable[[], Any],
) -> Rows:
    """Return the summary of a run, doing what is missing under the workflow engine.

    Parameters
    ----------
    checkpoints, images, architecture, settings, options
        As in the flow ``score_checkpoints``.
    engine
        Makes Prefect usable: a context manager, entered only where there is work.
    """
    rows = cached_rows(checkpoints, images, architecture, settings, options)
    if rows is not None:
        return rows
    for checkpoint in checkpoints:
        check_request(checkpoint, architecture, settings)
    with engine():
        from flows.score import score_checkpoints

        return score_checkpoints(
            list(checkpoints), images, architecture, settings=settings, options=options
        )
