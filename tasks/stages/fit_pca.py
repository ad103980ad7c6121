"""PCA out of core: moments of blocks from the stored features, merged as a tree, one eigh."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from soapworks.errors import ResourceError
from soapworks.method.moments import Moments
from soapworks.method.pca import Pca
from soapworks.method.pca import fit_pca as fit
from soapworks.storage_schemas.layout.arrays import (
    GROUP,
    StoredArray,
    open_array,
    read_arrays,
    write_arrays,
)
from soapworks.storage_schemas.layout.recipes import MomentsRecipe, PcaRecipe
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.executors.threads import Compute, Threads
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.sizes import size

if TYPE_CHECKING:
    from soapworks.tasks.executors.cluster import Cluster

RANGE_BYTES = 32 << 20
"""Most float32 bytes of tokens that a thread takes into memory at once.

A constant, so that the ranges, and with them the rounding of the results, do not depend on the
memory limit or the number of threads.
"""

WHOLE_BYTES = 64 << 20
"""Largest block, bytes as stored, that is read from a bucket in one piece.

Pieces of it would be a request for each of its inner chunks.
"""

COPIES = 4
"""Copies of a range of tokens alive at once: stored, float32, centred, and responses."""

THREAD_MATRICES = 3
"""D x D float64 matrices that a thread may hold: its own, a merged pair's, a product."""


def images_per_range(shape: tuple[int, ...], block_images: int) -> int:
    """Return how many images a thread takes into memory at once.

    Parameters
    ----------
    shape
        (image, row, column, channel) of the features.
    block_images
        Images in a block, the most that is taken.
    """
    image_bytes = 4 * int(np.prod(shape[1:]))
    return max(1, min(block_images, RANGE_BYTES // image_bytes))


@dataclass(frozen=True)
class StatisticsMemory:
    """The memory that statistics of features take."""

    shape: tuple[int, ...]
    """(image, row, column, channel) of the features."""
    block_images: int
    """Images in a block."""
    whole_bytes: int = 0
    """Bytes of a stored block that is read in one piece; 0 where ranges of it are read."""

    @property
    def n_bytes(self) -> int:
        """Bytes that one thread takes."""
        image_bytes = 4 * int(np.prod(self.shape[1:]))
        return (
            COPIES * images_per_range(self.shape, self.block_images) * image_bytes
            + THREAD_MATRICES * self.shape[-1] ** 2 * 8
            + 2 * self.whole_bytes  # as it came, and decoded
        )

    def threads(self, memory: int, workers: int, cure: str) -> int:
        """Return how many threads of this process may compute statistics at once.

        Parameters
        ----------
        memory
            Bytes that the whole process may use.
        workers
            Number of threads wanted.
        cure
            What to do where that is too little.

        Raises
        ------
        ResourceError
            Where the process would exceed the limit with a single thread.
        """
        used = psutil.Process().memory_info().rss
        n = (memory - used) // self.n_bytes
        if n < 1:
            _, rows, columns, channels = self.shape
            raise ResourceError(
                f"the statistics of {channels} channels on a {rows} x {columns} grid need "
                f"{size(used + self.n_bytes)} (the process has {size(used)} already); the limit "
                f"is {size(memory)}: {cure}."
            )
        return min(int(n), workers)


def threads_within(memory: int, shape: tuple[int, ...], block_images: int, workers: int) -> int:
    """Return how many threads of this process may compute statistics at once.

    Raises
    ------
    ResourceError
        Where the process would exceed ``memory`` with a single thread.
    """
    return StatisticsMemory(shape, block_images).threads(memory, workers, "raise --memory")


def compute_on(
    features: Product, *, memory: int, workers: int, cluster: "Cluster | None" = None
) -> Compute:
    """Return where statistics of stored features are computed: on threads, or on a cluster.

    Raises
    ------
    ResourceError
        Where this process would exceed ``memory`` with a single thread.
    """
    array = open_features(features)
    block_images = features.recipe["block_images"]
    room = StatisticsMemory(array.shape, block_images, _whole_bytes(features, array, block_images))
    if cluster is not None:
        return cluster.within(room)
    return Threads(room.threads(memory, workers, "raise --memory"))


def blocks_of(features: Product) -> list[list[tuple[int, int]]]:
    """Return, for every block of stored features, its [start, stop) ranges of images."""
    shape, block_images = open_features(features).shape, features.recipe["block_images"]
    return ranges(shape[0], block_images, images_per_range(shape, block_images))


def pieces_of(features: Product, spans: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Yield a block's ranges of images, each (image, row, column, channel)."""
    array, first = open_features(features), spans[0][0]
    if _whole_bytes(features, array, spans[-1][1] - first):
        block = array[first : spans[-1][1]]
        yield from (block[start - first : stop - first] for start, stop in spans)
    else:
        yield from (array[start:stop] for start, stop in spans)


def _whole_bytes(features: Product, array: StoredArray, n_images: int) -> int:
    n_bytes = n_images * int(np.prod(array.shape[1:])) * array.dtype.itemsize
    return n_bytes if features.data.local_path is None and n_bytes <= WHOLE_BYTES else 0


def ranges(n_images: int, block_images: int, n: int) -> list[list[tuple[int, int]]]:
    """Return, for every block, its [start, stop) ranges of at most n images."""
    return [
        [(i, min(i + n, stop)) for i in range(start, stop, n)]
        for start in range(0, n_images, block_images)
        for stop in (min(start + block_images, n_images),)
    ]


def open_features(features: Product) -> StoredArray:
    """Return the array of a product of features, opened once for all of its blocks."""
    return _open_features(features, features.record["attempt"])


@lru_cache(maxsize=8)
def _open_features(features: Product, attempt: str) -> StoredArray:
    # A product that was made again lies in another attempt's folder.
    return open_array(features.open_zarr(), "features", "features")


@dataclass(frozen=True)
class BlockMoments:
    """The moments of a block of stored features, wherever they are computed."""

    features: Product
    recipe: MomentsRecipe

    def __call__(self, spans: Sequence[tuple[int, int]]) -> Moments:
        """Return the moments of a block, given as its ranges of images."""
        n_channels = open_features(self.features).shape[-1]
        return moments_of(pieces_of(self.features, spans), n_channels, self.recipe)


def make_moments(
    store: Store,
    recipe: MomentsRecipe,
    features: Product,
    *,
    memory: int,
    workers: int,
    cluster: "Cluster | None" = None,
) -> Product:
    """Return count, mean and scatter of one segment's tokens.

    Memory stays below ``memory`` at any number of images: every thread takes a range of images at
    a time, and blocks are merged pairwise by Chan's formula (METHOD 3), always in the same order.
    """

    def make(attempt: Attempt) -> dict[str, Any]:
        at = compute_on(features, memory=memory, workers=workers, cluster=cluster)
        total = at.tree(BlockMoments(features, recipe), blocks_of(features), merged)
        return write_moments(attempt, total)

    return get_or_make(store, recipe, make)


def moments_of(pieces: Iterable[Any], n_channels: int, recipe: MomentsRecipe) -> Moments:
    """Return the moments of a block, given in pieces (image, row, column, channel)."""
    moments = Moments(n_channels, precision=recipe.precision)
    for piece in pieces:
        moments.update(piece)
    return moments


def write_moments(attempt: Attempt, total: Moments) -> dict[str, Any]:
    """Write a segment's moments and return the facts for its record."""
    write_arrays(
        attempt.writer.zarr_group(GROUP, mode="w"),
        "moments",
        {"count": np.int64(total.count), "mean": total.mean, "scatter": total.scatter},
    )
    return {"n_tokens": int(total.count)}


def merged(one: Moments, other: Moments) -> Moments:
    """Return the moments of two parts together."""
    one.merge(other)
    return one


def make_pca(store: Store, recipe: PcaRecipe, moments: Sequence[Product]) -> Product:
    """Return the principal components of all segments' tokens together."""

    def make(attempt: Attempt) -> dict[str, Any]:
        total = read_moments(moments[0])
        for product in moments[1:]:
            total.merge(read_moments(product))
        # One thread, so that the components do not depend on the number of cores.
        with threadpool_limits(1):
            pca = fit(total)
        write_arrays(
            attempt.writer.zarr_group(GROUP, mode="w"),
            "pca",
            {
                "count": np.int64(pca.count),
                "mean": pca.mean,
                "components": pca.components,
                "explained_variance": pca.explained_variance,
            },
        )
        return {"n_tokens": int(pca.count), "n_components": len(pca.components)}

    return get_or_make(store, recipe, make)


def read_moments(product: Product) -> Moments:
    """Return the moments that a product holds."""
    arrays = read_arrays(product.open_zarr(), "moments")
    return Moments.from_parts(int(arrays["count"]), arrays["mean"], arrays["scatter"])


def read_pca(product: Product) -> Pca:
    """Return the principal components that a product holds."""
    arrays = read_arrays(product.open_zarr(), "pca")
    return Pca(
        mean=arrays["mean"],
        components=arrays["components"],
        explained_variance=arrays["explained_variance"],
        count=int(arrays["count"]),
    )
