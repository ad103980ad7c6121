"""Count positive responses per block, position and component from the stored features."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from soapworks.pca import Pca
from soapworks.responses import count_responses
from storage_schemas.arrays import GROUP, create_array, open_array, read_arrays
from storage_schemas.recipes import ResponsesRecipe
from storage_schemas.store import Attempt, Product, Store
from tasks.dask_compute import compute_each
from tasks.fit_pca import images_per_range, ranges, read_pca, threads_within
from tasks.measurement import seen
from tasks.obtain import obtain


def make_responses(
    store: Store,
    recipe: ResponsesRecipe,
    features: Product,
    pca_product: Product,
    *,
    memory: int,
    workers: int,
) -> Product:
    """Return the counts of one segment, kept per block: exact and mergeable (METHOD 4)."""

    def make(attempt: Attempt) -> dict[str, Any]:
        pca = read_pca(pca_product)
        array = open_array(features.open_zarr(), "features", "features")
        block_images = features.recipe["block_images"]
        n = images_per_range(array.shape, block_images)
        threads = threads_within(memory, array.shape, block_images, workers)

        def of_block(spans: Sequence[tuple[int, int]]) -> np.ndarray:
            pieces = (np.asarray(array[start:stop]) for start, stop in spans)
            return counts_of(pieces, array.shape[1:], pca)

        blocks = ranges(array.shape[0], block_images, n)
        sizes = [spans[-1][1] - spans[0][0] for spans in blocks]
        counts = compute_each(of_block, blocks, workers=threads)
        return write_responses(attempt, counts, array.shape[1:], sizes, features.recipe)

    return obtain(store, recipe, make)


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
    return {"n_images": sum(sizes), "n_blocks": len(sizes), "seen": seen(features)}


def read_responses(products: Sequence[Product]) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (block, row, column, component) and images per block (block,), merged."""
    arrays = [read_arrays(product.open_zarr(), "responses") for product in products]
    return (
        np.concatenate([a["counts"] for a in arrays]),
        np.concatenate([a["n_images"] for a in arrays]),
    )
