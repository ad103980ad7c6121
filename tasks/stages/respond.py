"""Count positive responses per block, position and component from the stored features."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from soapworks.method.pca import Pca
from soapworks.method.responses import count_responses
from soapworks.storage_schemas.layout.arrays import GROUP, create_array, read_arrays
from soapworks.storage_schemas.layout.recipes import ResponsesRecipe
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.stages.conditions import feature_conditions
from soapworks.tasks.stages.fit_pca import read_pca
from soapworks.tasks.stages.stored_features import blocks_of, compute_on, open_features, pieces_of

if TYPE_CHECKING:
    from soapworks.tasks.executors.cluster import Cluster

_reading = threading.Lock()


@dataclass(frozen=True)
class BlockCounts:
    """The counts of a block of stored features, wherever they are computed."""

    features: Product
    pca: Product

    def __call__(self, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the counts of a block, given as its ranges of images."""
        shape = open_features(self.features).shape[1:]
        pieces = pieces_of(self.features, spans)
        return counts_of(pieces, shape, components_of([self.pca])[0])


def components_of(products: Sequence[Product]) -> tuple[Pca, ...]:
    """Return the components that products hold, read once for all blocks that they are used on."""
    with _reading:
        return _components_of(tuple((one, one.record["attempt"]) for one in products))


@lru_cache(maxsize=1)
def _components_of(products: tuple[tuple[Product, str], ...]) -> tuple[Pca, ...]:
    # A product that was made again lies in another attempt's folder.
    return tuple(read_pca(product) for product, _ in products)


def make_responses(
    store: Store,
    recipe: ResponsesRecipe,
    features: Product,
    pca_product: Product,
    *,
    memory: int,
    workers: int,
    cluster: "Cluster | None" = None,
) -> Product:
    """Return the counts of one segment, kept per block: exact and mergeable."""

    def make(attempt: Attempt) -> dict[str, Any]:
        blocks = blocks_of(features)
        sizes = [spans[-1][1] - spans[0][0] for spans in blocks]
        at = compute_on(features, memory=memory, workers=workers, cluster=cluster)
        counts = at.each(BlockCounts(features, pca_product), blocks)
        shape = open_features(features).shape[1:]
        return write_responses(attempt, counts, shape, sizes, features.recipe)

    return get_or_make(store, recipe, make)


def counts_of(pieces: Iterable[Any], shape: tuple[int, ...], pca: Pca) -> np.ndarray:
    """Return a block's counts (R, C, D) int32; its pieces are (image, row, column, channel)."""
    counts = np.zeros(shape, np.int32)
    for piece in pieces:
        counts += count_responses(piece, pca).astype(np.int32)
    return counts


def write_responses(
    attempt: Attempt,
    counts: Iterable[np.ndarray],
    shape: tuple[int, ...],
    sizes: Sequence[int],
    features: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a segment's counts and return the facts for its record.

    Parameters
    ----------
    attempt
        What they are written into.
    counts
        Of every block, in order, each of ``shape`` (R, C, D).
    sizes
        Number of images in every block.
    features
        Fields of the features' recipe.
    """
    group = attempt.writer.zarr_group(GROUP, mode="w")
    array = create_array(group, "responses", "counts", (len(sizes), *shape), "int32")
    # Block by block: all counts of a large segment together may not fit into memory.
    for number, found in enumerate(counts):
        array[number] = found
    create_array(group, "responses", "n_images", (len(sizes),), "int32")[...] = sizes
    return {"n_images": sum(sizes), "n_blocks": len(sizes), "seen": feature_conditions(features)}


def read_responses(products: Sequence[Product]) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (block, row, column, component) and images per block (block,), merged."""
    arrays = [read_arrays(product.open_zarr(), "responses") for product in products]
    return (
        np.concatenate([a["counts"] for a in arrays]),
        np.concatenate([a["n_images"] for a in arrays]),
    )
