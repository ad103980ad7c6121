"""A network as the stages see it: it does the blocks of a segment, here or on a cluster.

The unit of work is a block. A block is finished for a product when its part record is in the
product's attempt; a resumed run does only the blocks, and of those only the layers, without one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.tasks.events import Advance
from soapworks.tasks.executors.worker import MemoryNeed

if TYPE_CHECKING:
    import torch


class Finish(Protocol):
    """Write the products of a block's features; picklable."""

    @property
    def need(self) -> MemoryNeed | None:
        """Memory per thread of a statistic, computed on the device before the next block is.

        None where features come to the host and are written while the next block is computed.
        """

    def __call__(
        self,
        number: int,
        features: "Mapping[str, torch.Tensor]",
        writers: Mapping[str, AttemptWriter],
        threads: int,
    ) -> None:
        """Finish a block, given as features (image, row, column, channel) by layer."""


class Network(Protocol):
    """A network and the images of one domain of a request."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""

    def n_channels(self, layer: str) -> int:
        """Return the number of channels of a layer."""

    def for_each_block(
        self,
        writers: Mapping[str, AttemptWriter],
        recipes: Mapping[str, FeaturesRecipe],
        finish: Finish,
        advance: Advance,
    ) -> None:
        """Compute and finish all blocks of a segment that some layer lacks.

        Parameters
        ----------
        writers
            Writer of each layer's product; its part records name the finished blocks.
        recipes
            Features recipe of each layer, all of the same segment.
        finish
            Called once per block with the features of the layers that lack it.
        advance
            Called with the number of images finished since the last call.

        Raises
        ------
        PrecisionError
            NaN or infinity in the features, or values beyond the stored dtype.
        EngineError
            Where a cluster fails, or its workers do not see what this process sees.
        """


def part_name(number: int) -> str:
    """Return the name of a block's part record."""
    return f"block-{number:06d}"


def lacking_blocks(
    writers: Mapping[str, AttemptWriter], recipe: FeaturesRecipe, advance: Advance
) -> dict[int, tuple[str, ...]]:
    """Return block number -> layers that lack it; report the images of all others as done."""
    done = {layer: writer.finished_parts() for layer, writer in writers.items()}
    todo = {}
    for number in range(recipe.n_blocks):
        layers = tuple(layer for layer in writers if part_name(number) not in done[layer])
        if layers:
            todo[number] = layers
    spans = map(recipe.span, todo)
    skipped = recipe.input.n_images - sum(stop - start for start, stop in spans)
    if skipped:
        advance(skipped)
    return todo
