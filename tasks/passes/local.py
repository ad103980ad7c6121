"""One pass of a segment's images through the network, for several products at once.

The unit of work is a block. A block is finished for a product when its part record is in the
product's attempt; a run that is interrupted does only the blocks again that have no such record,
and of those only the layers that lack them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.tasks.events import Advance
from soapworks.tasks.passes.batches import BatchSize, block_spans, n_blocks
from soapworks.tasks.passes.sources import ImageSource

if TYPE_CHECKING:
    import torch

    from soapworks.backbones import Backbone


@dataclass(frozen=True)
class Network:
    """A network in this process, and what goes through it."""

    backbone: "Backbone"
    """The network, on its device."""
    source: ImageSource
    """The segment's images."""
    batch: BatchSize
    """Images per forward pass; halved, and remembered, where memory runs out."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.backbone.grid

    def n_channels(self, layer: str) -> int:
        """Return the number of channels of a layer."""
        return self.backbone.n_channels(layer)


def part_name(number: int) -> str:
    """Return the name of a block's part record."""
    return f"block-{number:06d}"


def lacking_blocks(
    writers: Mapping[str, AttemptWriter], recipe: FeaturesRecipe, advance: Advance
) -> dict[int, tuple[str, ...]]:
    """Return block number -> layers that lack it; the images of all others are told as done."""
    done = {layer: writer.finished_parts() for layer, writer in writers.items()}
    lacking = {
        number: tuple(layer for layer in writers if part_name(number) not in done[layer])
        for number in range(n_blocks(recipe))
    }
    todo = {number: layers for number, layers in lacking.items() if layers}
    spans = block_spans(recipe.input.n_images, recipe.block_images, todo)
    skipped = recipe.input.n_images - sum(stop - start for start, stop in spans)
    if skipped:
        advance(skipped)
    return todo


def unfinished_blocks(
    network: Network,
    writers: Mapping[str, AttemptWriter],
    recipe: FeaturesRecipe,
    advance: Advance,
    *,
    on_device: bool = False,
) -> Iterator[tuple[int, dict[str, "torch.Tensor"]]]:
    """Yield (block number, features of each layer that lacks the block), telling progress.

    Parameters
    ----------
    network
        What computes them.
    writers
        Of what is made, by layer; its part records say which blocks are there.
    recipe
        Any of the layers' features: input, block size and stored dtype are the same for all.
    advance
        Told how many more images are done.
    on_device
        Leave features on the GPU where they were computed on one.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features, or values beyond the stored dtype.
    """
    from soapworks.tasks.passes.forward import (
        forward_blocks,  # imports torch, which hosts of blocks do without
    )

    todo = lacking_blocks(writers, recipe, advance)
    source = network.source
    spans = block_spans(source.n_images, recipe.block_images, todo)
    blocks = forward_blocks(
        network.backbone, todo, source, recipe, network.batch, on_device=on_device
    )
    for (number, features), (start, stop) in zip(blocks, spans, strict=True):
        yield number, features
        advance(stop - start)
