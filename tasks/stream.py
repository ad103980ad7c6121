"""Streamed statistics: no features are kept, nothing but small products is written.

The real images pass through the network twice, once for the moments (METHOD 3) and, when the
components are known, once more for the responses (METHOD 4); the synthetic images pass once. The
statistics see the features in the precision in which they would have been stored and in the same
pieces, so the products are those of stored features, whoever made them.

What a block gives is kept as work of the product's attempt until all blocks are there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from dask.delayed import delayed
from safetensors.numpy import load, save

from soapworks.moments import Moments
from soapworks.pca import Pca
from storage_schemas.recipes import FeaturesRecipe, MomentsRecipe, ResponsesRecipe
from storage_schemas.records import WORK
from storage_schemas.store import Attempt, Product, Store
from storage_schemas.writers import AttemptWriter
from tasks.batches import BatchSize, block_spans, n_blocks
from tasks.dask_compute import compute, compute_each, reduce_tree
from tasks.events import Advance
from tasks.fit_pca import images_per_range, merged, moments_of, threads_within, write_moments
from tasks.obtain import obtain_together
from tasks.passes import part_name, unfinished_blocks
from tasks.respond import counts_of, write_responses
from tasks.sources import ImageSource

if TYPE_CHECKING:
    import torch

    from soapworks.backbones import Backbone

R = TypeVar("R", bound=MomentsRecipe | ResponsesRecipe)
Rc = TypeVar("Rc", bound=MomentsRecipe | ResponsesRecipe, contravariant=True)

Arrays = dict[str, np.ndarray]
"""What is kept of one block."""


class Statistic(Protocol[Rc]):
    """What a pass is made for."""

    @property
    def stage(self) -> str:
        """Return what the pass is called."""

    def of_block(self, recipe: Rc, pieces: Iterable[Any], shape: tuple[int, ...]) -> Arrays:
        """Return what is kept of a block of features, each piece (image, row, column, channel)."""

    def write(self, recipe: Rc, attempt: Attempt, work: "BlockWork") -> dict[str, Any]:
        """Write the product made of all blocks; return the facts for its record."""


@dataclass(frozen=True)
class BlockWork:
    """What all blocks of a segment gave, as it lies in an attempt."""

    attempt: Attempt
    features: FeaturesRecipe
    workers: int
    """Threads that may put it together."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        return n_blocks(self.features)

    def read(self, number: int) -> Arrays:
        """Return what a block gave."""
        return load((self.attempt.location / work_name(number)).read_bytes())

    @property
    def sizes(self) -> list[int]:
        """Images in every block."""
        n_images, block = self.features.input.n_images, self.features.block_images
        return [stop - start for start, stop in block_spans(n_images, block, range(len(self)))]


class StreamedMoments:
    """The first pass: count, mean and scatter of the real images' tokens."""

    stage = "extract"

    def of_block(
        self, recipe: MomentsRecipe, pieces: Iterable[Any], shape: tuple[int, ...]
    ) -> Arrays:
        """Return a block's moments."""
        found = moments_of(pieces, shape[-1], recipe)
        return {"count": np.array(found.count), "mean": found.mean, "scatter": found.scatter}

    def write(self, recipe: MomentsRecipe, attempt: Attempt, work: BlockWork) -> dict[str, Any]:
        """Merge the blocks in the order in which stored features are merged."""

        def of_block(number: int) -> Moments:
            arrays = work.read(number)
            return Moments.from_parts(int(arrays["count"]), arrays["mean"], arrays["scatter"])

        parts = [delayed(of_block, pure=False)(number) for number in range(len(work))]
        total: Moments = compute(reduce_tree(parts, merged), workers=work.workers)
        return write_moments(attempt, total)


@dataclass(frozen=True)
class StreamedResponses:
    """The second pass: how often every component responds, block by block."""

    pcas: Mapping[str, Pca]
    """Components of every layer."""
    stage = "respond"

    def of_block(
        self, recipe: ResponsesRecipe, pieces: Iterable[Any], shape: tuple[int, ...]
    ) -> Arrays:
        """Return a block's counts."""
        return {"counts": counts_of(pieces, shape, self.pcas[recipe.subject.layer])}

    def write(self, recipe: ResponsesRecipe, attempt: Attempt, work: BlockWork) -> dict[str, Any]:
        """Put the blocks' counts side by side."""
        counts = (work.read(number)["counts"] for number in range(len(work)))
        shape = work.read(0)["counts"].shape
        about = work.features.model_dump(mode="json")
        return write_responses(attempt, counts, shape, work.sizes, about)


def stream(
    store: Store,
    backbone: "Backbone",
    statistic: Statistic[R],
    wanted: Mapping[R, FeaturesRecipe],
    source: ImageSource,
    batch: BatchSize,
    advance: Advance,
    *,
    memory: int,
    workers: int,
) -> list[Product]:
    """Return a statistic of one segment at several layers, from one forward pass.

    Layers that another process is working on are waited for; a block that was finished in an
    earlier, interrupted run is not computed again.

    Parameters
    ----------
    store
        Where products live.
    backbone
        The network, on its device; statistics are computed there if it is a GPU.
    statistic
        Moments or responses.
    wanted
        One recipe per layer, and the features that it is about.
    source
        The segment's images.
    batch
        Images per forward pass; halved, and remembered, where memory runs out.
    advance
        Told how many more images are done.
    memory, workers
        Bytes that the process may use for statistics, and threads wanted for them.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features, or values beyond the precision of storage.
    ResourceError
        Where the statistics would not fit into ``memory``.
    """
    recipe = next(iter(wanted.values()))
    widest = max(backbone.n_channels(one.subject.layer) for one in wanted)
    shape = (source.n_images, *backbone.grid, widest)

    def make(attempts: Mapping[R, Attempt]) -> None:
        threads = threads_within(memory, shape, recipe.block_images, workers)
        recipes = {one.subject.layer: one for one in attempts}
        by_layer = {layer: attempts[one] for layer, one in recipes.items()}
        blocks = unfinished_blocks(
            backbone,
            by_layer,
            recipe,
            source,
            batch,
            advance,
            on_device=backbone.device.type == "cuda",
        )

        def finish(number: int, features: Mapping[str, "torch.Tensor"], layer: str) -> None:
            values = features[layer]
            pieces = in_pieces(values, recipe.block_images)
            arrays = statistic.of_block(recipes[layer], pieces, tuple(values.shape[1:]))
            write_block(by_layer[layer].writer, number, arrays)

        # On a GPU the statistics are computed there, one layer after another.
        at_once = threads if backbone.device.type == "cpu" else 1
        for number, features in blocks:
            of_layer = partial(finish, number, features)
            for _ in compute_each(of_layer, list(features), workers=at_once):
                pass
            features.clear()  # before the next block is put together
        for one, attempt in attempts.items():
            work = BlockWork(attempt, wanted[one], threads)
            attempt.publish(statistic.write(one, attempt, work))

    return obtain_together(store, list(wanted), make)


def work_name(number: int) -> str:
    """Return the file in an attempt that holds what a block gave."""
    return f"{WORK}/{part_name(number)}.safetensors"


def write_block(writer: AttemptWriter, number: int, arrays: Arrays) -> None:
    """Write what a block gave, and the record that it is finished."""
    name = work_name(number)
    writer.write(name, save(arrays))
    writer.finish_part(part_name(number), [name])


def in_pieces(values: "torch.Tensor", block_images: int) -> Iterator[Any]:
    """Yield a block as stored features are read: in ranges of images, on the host as NumPy."""
    tokens = values if values.is_cuda else values.cpu().numpy()
    n = images_per_range(tuple(values.shape), block_images)
    for start in range(0, len(tokens), n):
        yield tokens[start : start + n]
