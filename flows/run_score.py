"""One run from the command line: ask the store first, start the workflow engine only for work."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from soapworks.errors import StoreError, user_message
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.executors.connection import connected
from soapworks.tasks.inputs.checkpoint import (
    find_identity,
    inspect_checkpoint,
    read_identity,
    report_part,
)
from soapworks.tasks.inputs.images import known_images, scan_images
from soapworks.tasks.plan.cost import Projection, project
from soapworks.tasks.plan.models import ModelEntry, SomeFailedError, is_of_one_model
from soapworks.tasks.plan.precision import plan_from_store
from soapworks.tasks.plan.recipes import find_missing
from soapworks.tasks.reports.summary import summarize
from soapworks.tasks.settings import RunOptions, ScoreSettings


@dataclass
class Outcome:
    """What a run came to."""

    layers: list[LayerSummary] = field(default_factory=list)
    """A summary per (checkpoint, layer)."""
    failures: dict[str, str] = field(default_factory=dict)
    """Checkpoints that failed while others were done, and why."""


def cached_summaries(
    models: Sequence[ModelEntry], images: str, settings: ScoreSettings, options: RunOptions
) -> list[LayerSummary] | None:
    """Return the summary if the store has everything, else None; needs neither torch nor Prefect.

    Raises
    ------
    InputError
        Where the images cannot be listed or the settings do not fit a checkpoint.
    """
    store = Store(options.store, lease_seconds=options.lease_seconds)
    manifest = known_images(store, images, settings)
    if manifest is None:
        return None
    layers = []
    for model in models:
        request = model.request(images, settings, options)
        product = find_identity(store, *request.asked)
        if product is None:
            return None
        identity = read_identity(product)
        report_part(identity)
        plan = plan_from_store(store, identity, manifest, request.settings)
        missing = find_missing(store, plan)
        if missing:
            return None
        layers += summarize(store, plan, missing)
    return layers


def check_request(model: ModelEntry, settings: ScoreSettings, options: RunOptions) -> None:
    """Raise what can be known to be wrong before the engine is started.

    Raises
    ------
    CheckpointError, LayerError, InputError
        A checkpoint that cannot be found, an unknown layer, an image size that does not fit.
    """
    from soapworks.backbones import describe_checkpoint, open_checkpoint

    own = model.request("", settings, options).settings
    found = open_checkpoint(model.checkpoint, architecture=model.architecture, part=own.part)
    describe_checkpoint(found, image_size=own.image_size).resolve_layers(own.layers)


def check_store(store: Store) -> None:
    """Raise where a store on a disk cannot be written, before any work.

    Raises
    ------
    StoreError
        If it, or the folder that it would be made in, is a file or must not be written.
    """
    place = store.location.local_path
    if place is None:
        return
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not there.is_dir():
        reason = f"{there} is not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"{there} must not be written by this user"
    else:
        return
    raise StoreError(f"the store {place} cannot be written: {reason}; choose another with --store")


def plan_run(
    models: Sequence[ModelEntry], images: str, settings: ScoreSettings, options: RunOptions
) -> tuple[list[Projection], dict[str, str]]:
    """Return what each checkpoint would cost, and what is wrong with those that cannot be planned.

    Reads files, writes nothing.

    Raises
    ------
    SoapworksError
        Whatever would stop the run before its first forward pass.
    """
    store = Store(options.store, lease_seconds=options.lease_seconds)
    manifest = scan_images(store, images, settings, workers=options.workers)

    def of_model(model: ModelEntry) -> Projection:
        request = model.request(images, settings, options)
        known = find_identity(store, *request.asked)
        identity = read_identity(known) if known else inspect_checkpoint(*request.asked)
        report_part(identity)
        plan = plan_from_store(store, identity, manifest, request.settings)
        missing = find_missing(store, plan, options.keep_features)
        return project(store, plan, missing, memory=options.memory)

    return each_model(models, of_model)


def score(
    models: Sequence[ModelEntry],
    images: str,
    settings: ScoreSettings,
    options: RunOptions,
    *,
    engine: Callable[[], Any],
) -> Outcome:
    """Return what a run came to, doing what is missing under the workflow engine.

    Parameters
    ----------
    models, images, settings, options
        As in the flow ``score_checkpoints``.
    engine
        Makes Prefect usable: a context manager, entered only where there is work.

    Raises
    ------
    SoapworksError
        Where nothing could be done: what concerns all models, or the only one.
    """
    refused: dict[str, str] = {}
    try:
        layers = cached_summaries(models, images, settings, options)
        if layers is not None:
            return Outcome(layers)
    except Exception as error:
        # Which of several models is at fault is reported below.
        if len(models) == 1 or not is_of_one_model(error):
            raise
    good = list(models)
    if len(models) > 1:
        _, refused = each_model(models, lambda model: check_request(model, settings, options))
        good = [model for model in models if model.checkpoint not in refused]
        if not good:
            raise SomeFailedError(refused, [])
    else:
        check_request(models[0], settings, options)
    check_store(Store(options.store))
    # The cluster first: whether it answers is known sooner.
    with connected(options.dask), engine():
        from soapworks.flows.score import score_checkpoints

        try:
            rows = score_checkpoints(list(good), images, settings=settings, options=options)
            return Outcome([LayerSummary(**row) for row in rows], refused)
        except SomeFailedError as error:
            return Outcome(error.layers, refused | error.failures)


def each_model(
    models: Sequence[ModelEntry], call: Callable[[ModelEntry], Any]
) -> tuple[list[Any], dict[str, str]]:
    """Return what a function gives for every model, and why some failed.

    Raises
    ------
    Exception
        What concerns all models, and whatever the only one has.
    """
    found, failures = [], {}
    for model in models:
        try:
            found.append(call(model))
        except Exception as error:
            if len(models) == 1 or not is_of_one_model(error):
                raise
            failures[model.checkpoint] = user_message(error)
            emit(Notice(f"{model.checkpoint} failed: {failures[model.checkpoint]}"))
    return found, failures
