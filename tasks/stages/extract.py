"""Extract features: one forward pass per image for all layers that are missing.

Images go through in batches that never cross a block. While a batch is computed the next one is
read, and finished blocks are written, so that storing costs little beside the forward pass.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from soapworks.storage_schemas.layout.arrays import GROUP, WRITING, create_array
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Advance
from soapworks.tasks.get_or_make import get_or_make_all
from soapworks.tasks.passes.network import Network, part_name

if TYPE_CHECKING:
    import numpy as np
    import torch
    import zarr

WRITERS = 2
"""Threads that write shards: one digests while the other waits for the disk."""


def extract(
    store: Store,
    network: Network,
    recipes: Sequence[FeaturesRecipe],
    advance: Advance,
) -> list[Product]:
    """Return the features of one segment at several layers, each made once.

    Layers that another process is making are waited for; all others come from one pass.

    Parameters
    ----------
    store
        Where products live.
    network
        The network, in this process or on a cluster.
    recipes
        One per layer, all with the same input.
    advance
        Called with the number of images finished since the last call.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features, or values beyond the stored dtype.
    """

    def make(attempts: Mapping[FeaturesRecipe, Attempt]) -> None:
        _extract_blocks(network, attempts, advance)
        for recipe, attempt in attempts.items():
            attempt.publish(_facts(recipe, network))

    return get_or_make_all(store, recipes, make)


def _extract_blocks(
    network: Network, attempts: Mapping[FeaturesRecipe, Attempt], advance: Advance
) -> None:
    for recipe, attempt in attempts.items():
        create_array(
            attempt.writer.zarr_group(GROUP, mode="a"),
            "features",
            "features",
            (recipe.input.n_images, *network.grid, network.n_channels(recipe.subject.layer)),
            recipe.dtype,
            block_images=recipe.block_images,
        )
    writers = {recipe.subject.layer: attempt.writer for recipe, attempt in attempts.items()}
    recipes = {recipe.subject.layer: recipe for recipe in attempts}
    network.for_each_block(writers, recipes, KeepBlock(), advance)


@dataclass(frozen=True)
class KeepBlock:
    """Write a block's features into arrays that the run has created."""

    need = None

    def __call__(
        self,
        number: int,
        features: "Mapping[str, torch.Tensor]",
        writers: Mapping[str, AttemptWriter],
        threads: int,
    ) -> None:
        """Write a block, layer by layer."""

        def write(layer: str) -> None:
            write_block(_open(writers[layer]), writers[layer], number, features[layer].numpy())

        with ThreadPoolExecutor(WRITERS, "write") as pool:
            list(pool.map(write, features))


@lru_cache(maxsize=128)
def _open(writer: AttemptWriter) -> "zarr.Array":
    """Return an attempt's array, opened once per process."""
    array: zarr.Array = writer.zarr_group(GROUP, mode="r+")["features"]  # type: ignore[assignment]
    return array.with_config(WRITING)


def write_block(array: "zarr.Array", writer: Any, number: int, values: "np.ndarray") -> None:
    """Write one block's features as one shard, and the record that it is finished."""
    n = array.shards[0] if array.shards else array.chunks[0]
    array[number * n : number * n + len(values)] = values
    writer.finish_part(part_name(number), [f"{GROUP}/features/c/{number}/"])


def _facts(recipe: FeaturesRecipe, network: Network) -> dict[str, Any]:
    return {
        "n_images": recipe.input.n_images,
        "grid": list(network.grid),
        "n_channels": network.n_channels(recipe.subject.layer),
    }
