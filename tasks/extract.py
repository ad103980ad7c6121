"""Extract features: one forward pass per image for all layers that are missing.

Images go through in batches that never cross a block. While a batch is computed the next one is
read, and finished blocks are written, so that storing costs little beside the forward pass.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from storage_schemas.arrays import GROUP, create_array
from storage_schemas.recipes import FeaturesRecipe
from storage_schemas.store import Attempt, Product, Store
from tasks.batches import BatchSize
from tasks.events import Advance
from tasks.obtain import obtain_together
from tasks.passes import part_name, unfinished_blocks
from tasks.sources import ImageSource

if TYPE_CHECKING:
    import numpy as np
    import zarr

    from soapworks.backbones import Backbone

WRITERS = 2
"""Threads that write shards: one digests while the other waits for the disk."""


def extract(
    store: Store,
    backbone: "Backbone",
    recipes: Sequence[FeaturesRecipe],
    source: ImageSource,
    batch: BatchSize,
    advance: Advance,
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
    advance
        Told how many more images are done.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features, or values beyond the stored dtype.
    """

    def make(attempts: Mapping[FeaturesRecipe, Attempt]) -> None:
        _extract_blocks(backbone, attempts, source, batch, advance)
        for recipe, attempt in attempts.items():
            attempt.publish(_facts(recipe, backbone))

    return obtain_together(store, recipes, make)


def _extract_blocks(
    backbone: "Backbone",
    attempts: Mapping[FeaturesRecipe, Attempt],
    source: ImageSource,
    batch: BatchSize,
    advance: Advance,
) -> None:
    recipe = next(iter(attempts))
    by_layer = {one.subject.layer: attempt for one, attempt in attempts.items()}
    arrays = {
        layer: create_array(
            attempt.writer.zarr_group(GROUP, mode="a"),
            "features",
            "features",
            (source.n_images, *backbone.grid, backbone.n_channels(layer)),
            recipe.dtype,
            block_images=recipe.block_images,
        )
        for layer, attempt in by_layer.items()
    }
    blocks = unfinished_blocks(backbone, by_layer, recipe, source, batch, advance)
    written: list[Future[None]] = []
    with ThreadPoolExecutor(WRITERS, "write") as pool:
        for number, features in blocks:
            # One block may be in writing while the next is computed: memory is two blocks.
            for earlier in written:
                earlier.result()
            written = [
                pool.submit(
                    write_block, arrays[layer], by_layer[layer].writer, number, values.numpy()
                )
                for layer, values in features.items()
            ]
        for last in written:
            last.result()


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
