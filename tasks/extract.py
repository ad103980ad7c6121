"""Extract features: one forward pass per image for all layers that are missing.

Images go through in batches that never cross a block. While a batch is computed the next one is
read, and finished blocks are written, so that storing costs little beside the forward pass. A
block is finished for a layer when its shard and its part record are in the store; a run that is
interrupted does only the blocks again that have no such record.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from storage_schemas.arrays import GROUP, create_array
from storage_schemas.leases import LeaseLostError
from storage_schemas.recipes import FeaturesRecipe
from storage_schemas.store import Attempt, Product, Store
from tasks.batches import BatchSize, block_spans
from tasks.events import StageAdvanced, StageFinished, StageStarted, Waiting, emit
from tasks.forward import forward_blocks
from tasks.obtain import POLL_SECONDS
from tasks.sources import ImageSource

if TYPE_CHECKING:
    import numpy as np
    import zarr

    from soapworks.backbones import Backbone

STAGE = "extract"

WRITERS = 2
"""Threads that write shards: one digests while the other waits for the disk."""


def extract(
    store: Store,
    backbone: "Backbone",
    recipes: Sequence[FeaturesRecipe],
    source: ImageSource,
    batch: BatchSize,
) -> list[Product]:
    """Return the features of one segment at several layers, each made once.

    Layers that another process is making are waited for; all others come from one pass.

    Parameters
    ----------
    store
        Where products live.
    backbone
        The network, on its device.
    recipes
        One per layer, all with the same input.
    source
        The segment's images.
    batch
        Images per forward pass; halved, and remembered, where memory runs out.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features, or values beyond the stored dtype.
    """
    subject = f"{recipes[0].subject.architecture} · {recipes[0].input.domain}"
    while True:
        started = time.monotonic()
        with ExitStack() as held:
            claims = [store.claim(recipe) for recipe in recipes]
            attempts = {
                recipe: held.enter_context(claim)
                for recipe, claim in zip(recipes, claims, strict=True)
                if isinstance(claim, Attempt)
            }
            if attempts:
                emit(StageStarted(STAGE, subject, source.n_images))
                try:
                    _extract_blocks(backbone, attempts, source, batch, subject)
                    for recipe, attempt in attempts.items():
                        attempt.publish(_facts(recipe, backbone))
                except LeaseLostError:
                    continue
                emit(StageFinished(STAGE, subject, False, time.monotonic() - started))
        if all(isinstance(claim, Product) for claim in claims):
            return [claim for claim in claims if isinstance(claim, Product)]
        busy = [r for r, claim in zip(recipes, claims, strict=True) if claim is None]
        if busy and not attempts:
            emit(Waiting(f"{busy[0].slug} is being made by {store.holder(busy[0]) or 'another'}"))
            while all(store.holder(r) is not None and store.find(r) is None for r in busy):
                time.sleep(POLL_SECONDS)


def _extract_blocks(
    backbone: "Backbone",
    attempts: Mapping[FeaturesRecipe, Attempt],
    source: ImageSource,
    batch: BatchSize,
    subject: str,
) -> None:
    recipe = next(iter(attempts))
    shape = (source.n_images, *backbone.grid)
    arrays = {
        one.subject.layer: create_array(
            attempt.writer.zarr_group(GROUP, mode="a"),
            "features",
            "features",
            (*shape, backbone.n_channels(one.subject.layer)),
            recipe.dtype,
            block_images=recipe.block_images,
        )
        for one, attempt in attempts.items()
    }
    writers = {one.subject.layer: attempt.writer for one, attempt in attempts.items()}
    done = {layer: writer.finished_parts() for layer, writer in writers.items()}
    blocks = {
        number: [layer for layer in arrays if part_name(number) not in done[layer]]
        for number in range(-(-source.n_images // recipe.block_images))
    }
    todo = {number: layers for number, layers in blocks.items() if layers}
    skipped = source.n_images - sum(
        stop - start for start, stop in block_spans(source.n_images, recipe.block_images, todo)
    )
    if skipped:
        emit(StageAdvanced(STAGE, subject, skipped))
    written: list[Future[None]] = []
    with ThreadPoolExecutor(WRITERS, "write") as pool:
        for number, features in forward_blocks(backbone, todo, source, recipe, batch):
            # One block may be in writing while the next is computed: memory is two blocks.
            for earlier in written:
                earlier.result()
            written = [
                pool.submit(write_block, arrays[layer], writers[layer], number, values)
                for layer, values in features.items()
            ]
            emit(StageAdvanced(STAGE, subject, len(next(iter(features.values())))))
        for last in written:
            last.result()


def part_name(number: int) -> str:
    """Return the name of a block's part record."""
    return f"block-{number:06d}"


def write_block(array: "zarr.Array", writer: Any, number: int, values: "np.ndarray") -> None:
    """Write one block's features as one shard, and the record that it is finished."""
    n = array.shards[0] if array.shards else array.chunks[0]
    array[number * n : number * n + len(values)] = values
    writer.finish_part(part_name(number), [f"{GROUP}/features/c/{number}/"])


def _facts(recipe: FeaturesRecipe, backbone: "Backbone") -> dict[str, Any]:
    return {
        "n_images": recipe.input.n_images,
        "grid": list(backbone.grid),
        "n_channels": backbone.n_channels(recipe.subject.layer),
    }
