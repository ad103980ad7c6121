"""Stored features, read in ranges of images that fit into memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import psutil
from rich.filesize import decimal

from soapworks.errors import ResourceError
from soapworks.storage_schemas.layout.arrays import StoredArray, open_array
from soapworks.storage_schemas.store import Product
from soapworks.tasks.executors.threads import Compute, Threads

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
                f"{decimal(used + self.n_bytes)} (the process has {decimal(used)} already); "
                f"the limit is {decimal(memory)}: {cure}."
            )
        return min(int(n), workers)


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
    need = StatisticsMemory(array.shape, block_images, _whole_bytes(features, array, block_images))
    if cluster is not None:
        return cluster.within(need)
    return Threads(need.threads(memory, workers, "raise --memory"))


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
