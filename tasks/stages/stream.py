"""Streamed statistics: no features are kept, nothing but small products is written.

The real images pass through the network twice, once for the moments and, when the
components are known, once more for the responses; the synthetic images pass once. The
statistics see the features in the precision in which they would have been stored and in the same
pieces, so the products are those of stored features, whoever made them.

What a block gives is kept as work of the product's attempt until all blocks are there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from safetensors.numpy import load, save

from soapworks.method.moments import Moments
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe, MomentsRecipe, ResponsesRecipe
from soapworks.storage_schemas.publishing.records import WORK
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Advance
from soapworks.tasks.executors.threads import Threads, compute_each
from soapworks.tasks.get_or_make import get_or_make_all
from soapworks.tasks.passes.network import Network, part_name
from soapworks.tasks.stages.fit_pca import merged, moments_of, write_moments
from soapworks.tasks.stages.respond import components_of, counts_of, write_responses
from soapworks.tasks.stages.stored_features import StatisticsMemory, images_per_range

if TYPE_CHECKING:
    import torch

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
        return self.features.n_blocks

    def read(self, number: int) -> Arrays:
        """Return what a block gave."""
        return load((self.attempt.location / work_name(number)).read_bytes())

    @property
    def sizes(self) -> list[int]:
        """Images in every block."""
        spans = map(self.features.span, range(len(self)))
        return [stop - start for start, stop in spans]


@dataclass(frozen=True)
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

        total = Threads(work.workers).tree(of_block, range(len(work)), merged)
        return write_moments(attempt, total)


@dataclass(frozen=True)
class StreamedResponses:
    """The second pass: how often every component responds, block by block."""

    components: Mapping[str, Product]
    """Components of every layer."""
    stage = "respond"

    def of_block(
        self, recipe: ResponsesRecipe, pieces: Iterable[Any], shape: tuple[int, ...]
    ) -> Arrays:
        """Return a block's counts."""
        pcas = dict(zip(self.components, components_of([*self.components.values()]), strict=True))
        return {"counts": counts_of(pieces, shape, pcas[recipe.subject.layer])}

    def write(self, recipe: ResponsesRecipe, attempt: Attempt, work: BlockWork) -> dict[str, Any]:
        """Put the blocks' counts side by side."""
        counts = (work.read(number)["counts"] for number in range(len(work)))
        shape = work.read(0)["counts"].shape
        about = work.features.model_dump(mode="json")
        return write_responses(attempt, counts, shape, work.sizes, about)


def stream(
    store: Store,
    network: Network,
    statistic: Statistic[R],
    wanted: Mapping[R, FeaturesRecipe],
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
    network
        The network, in this process or on a cluster, and the segment's images; statistics are
        computed where it is, on a GPU if it is there.
    statistic
        Moments or responses.
    wanted
        One recipe per layer, and the features that it is about.
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

    def make(attempts: Mapping[R, Attempt]) -> None:
        recipes = {recipe.subject.layer: recipe for recipe in attempts}
        features = {layer: wanted[recipe] for layer, recipe in recipes.items()}
        about = next(iter(features.values()))
        widest = max(map(network.n_channels, recipes))
        need = StatisticsMemory((about.input.n_images, *network.grid, widest), about.block_images)
        threads = need.threads(memory, workers, "raise --memory")
        writers = {recipe.subject.layer: attempt.writer for recipe, attempt in attempts.items()}
        finish = BlockStatistics(statistic, recipes, need)
        network.for_each_block(writers, features, finish, advance)
        for recipe, attempt in attempts.items():
            work = BlockWork(attempt, wanted[recipe], threads)
            attempt.publish(statistic.write(recipe, attempt, work))

    return get_or_make_all(store, list(wanted), make)


@dataclass(frozen=True)
class BlockStatistics(Generic[R]):
    """Make a statistic of a block's features, and write it as work of the layers' attempts."""

    statistic: Statistic[R]
    recipes: Mapping[str, R]
    """Recipe of each layer's statistic."""
    need: StatisticsMemory

    def __call__(
        self,
        number: int,
        features: "Mapping[str, torch.Tensor]",
        writers: Mapping[str, AttemptWriter],
        threads: int,
    ) -> None:
        """Do all layers of a block, several at once on threads."""

        def of_layer(layer: str) -> None:
            values = features[layer]
            pieces = in_pieces(values, self.need.block_images)
            arrays = self.statistic.of_block(self.recipes[layer], pieces, tuple(values.shape[1:]))
            write_block(writers[layer], number, arrays)

        for _ in compute_each(of_layer, list(features), workers=threads):
            pass


def work_name(number: int) -> str:
    """Return the file in an attempt that holds what a block gave."""
    return f"{WORK}/{part_name(number)}.safetensors"


def write_block(writer: AttemptWriter, number: int, arrays: Arrays) -> None:
    """Write what a block gave, and the record that it is finished."""
    writer.write_part(part_name(number), work_name(number), save(arrays))


def in_pieces(values: "torch.Tensor", block_images: int) -> Iterator[Any]:
    """Yield a block as stored features are read: in ranges of images, on the host as NumPy."""
    tokens = values if values.is_cuda else values.cpu().numpy()
    n = images_per_range(tuple(values.shape), block_images)
    for start in range(0, len(tokens), n):
        yield tokens[start : start + n]
