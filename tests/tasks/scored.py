"""Stores with heads that were written by hand: facts and counts are what a test says they are."""

from pathlib import Path
from typing import Any

import numpy as np

from soapworks.storage_schemas.layout.arrays import GROUP, create_array
from soapworks.storage_schemas.layout.completeness import FILES
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.layout.recipes import (
    CheckpointRecipe,
    HeadRecipe,
    Recipe,
    ResponsesRecipe,
    Subject,
)
from soapworks.storage_schemas.store import Attempt, Product, Store

MEASURED = {
    "images": "1" * 64,
    "n_real": 20,
    "n_synthetic": 10,
    "preprocessing": "squash",
    "spec": "authors",
    "spec_version": 1,
    "noise_seed": 0,
    "image_size": [32, 32],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "precision": "float32",
    "dtype": "float16",
    "block_images": 4,
}

FACTS = {
    "n_real": 20,
    "n_synthetic": 10,
    "n_components": 24,
    "n_invariant": 3,
    "invariant_variance_share": 0.25,
    "top_si": 0.9,
    "top_standard_error": 0.01,
    "top_component": 2,
    "n_suppressed": 2,
}


def digit(n: int) -> str:
    """Return a digest, or a key, that stands for a number."""
    return f"{n:064x}"


def subject(model: int, layer: str) -> Subject:
    return Subject(architecture="vit_tiny", weights=digit(model), layer=layer)


def publish_head(
    store: Store,
    model: int = 1,
    layer: str = "norm",
    *,
    scores: int = 0,
    mu: float = 2.0,
    measured: dict[str, Any] | None = MEASURED,
    **facts: Any,
) -> Product:
    """Publish a head whose record says what a test says."""
    recipe = HeadRecipe(
        subject=subject(model, layer), pca=digit(7), scores=digit(scores or model), mu=mu
    )
    return publish(store, recipe, {**FACTS, "measured": measured, **facts})


def summary(checkpoint: str, layer: str = "norm", **changes: Any) -> LayerSummary:
    """Return the summary of a layer that nobody scored."""
    identity = {"checkpoint": checkpoint, "layer": layer, "key": digit(9)}
    return LayerSummary.from_facts(FACTS | changes, **identity)


def summary_of(head: Product, checkpoint: str, *, cached: bool = False) -> LayerSummary:
    """Return what a run would say of a head."""
    layer = head.recipe["subject"]["layer"]
    return LayerSummary.from_facts(
        head.facts, layer=layer, key=head.key, checkpoint=checkpoint, cached=cached
    )


def publish_checkpoint(store: Store, model: int, identifier: str) -> Product:
    recipe = CheckpointRecipe(source=digit(model), architecture=identifier)
    return publish(store, recipe, {"digest": digit(model), "identifier": identifier})


def publish_responses(
    store: Store, recipe: ResponsesRecipe, counts: np.ndarray, n_images: list[int]
) -> Product:
    """Publish counts (block, row, column, component) of blocks of so many images."""
    attempt = store.claim(recipe)
    assert isinstance(attempt, Attempt)
    with attempt:
        group = attempt.writer.zarr_group(GROUP, mode="w")
        create_array(group, "responses", "counts", counts.shape, "int32")[...] = counts
        create_array(group, "responses", "n_images", (len(n_images),), "int32")[...] = n_images
        return attempt.publish({"n_images": sum(n_images), "n_blocks": len(n_images)})


def publish(store: Store, recipe: Recipe, facts: dict[str, Any]) -> Product:
    attempt = store.claim(recipe)
    assert isinstance(attempt, Attempt)
    with attempt:
        for name in FILES[recipe.kind]:
            attempt.writer.write(name, b"by hand\n")
        return attempt.publish(facts)


def update_often(url: str, model: int, n: int) -> None:
    """Publish heads one by one, as a run of its own does, and update the leaderboard each time."""
    from soapworks.tasks.reports.leaderboard import update_leaderboard

    store = Store(url)
    for number in range(n):
        head = publish_head(store, model, f"blocks.{number}", scores=100 * model + number)
        update_leaderboard(store, [summary_of(head, f"model {model}", cached=bool(number % 2))])


def path_of(place: Any) -> Path:
    assert place.local_path is not None
    return place.local_path
