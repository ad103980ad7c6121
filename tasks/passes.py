"""One pass of a segment's images through the network, for several products at once.

The unit of work is a block. A block is finished for a product when its part record is in the
product's attempt; a run that is interrupted does only the blocks again that have no such record,
and of those only the layers that lack them.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from storage_schemas.recipes import FeaturesRecipe
from storage_schemas.store import Attempt
from tasks.batches import BatchSize, block_spans, n_blocks
from tasks.events import Advance
from tasks.forward import forward_blocks
from tasks.sources import ImageSource

if TYPE_CHECKING:
    import torch

    from soapworks.backbones import Backbone


def part_name(number: int) -> str:
    """Return the name of a block's part record."""
    return f"block-{number:06d}"


def unfinished_blocks(
    backbone: "Backbone",
    attempts: Mapping[str, Attempt],
    recipe: FeaturesRecipe,
    source: ImageSource,
    batch: BatchSize,
    advance: Advance,
    *,
    on_device: bool = False,
) -> Iterator[tuple[int, dict[str, "torch.Tensor"]]]:
    """Yield (block number, features of each layer that lacks the block), telling progress.

    Parameters
    ----------
    backbone
        The network, on its device.
    attempts
        What is made, by layer; its part records say which blocks are there.
    recipe
        Any of the layers' features: input, block size and stored dtype are the same for all.
    source
        The segment's images.
    batch
        Images per forward pass.
    advance
        Told how many more images are done.
    on_device
        Leave features on the GPU where they were computed on one.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features, or values beyond the stored dtype.
    """
    done = {layer: attempt.writer.finished_parts() for layer, attempt in attempts.items()}
    lacking = {
        number: [layer for layer in attempts if part_name(number) not in done[layer]]
        for number in range(n_blocks(recipe))
    }
    todo = {number: layers for number, layers in lacking.items() if layers}
    spans = block_spans(source.n_images, recipe.block_images, todo)
    skipped = source.n_images - sum(stop - start for start, stop in spans)
    if skipped:
        advance(skipped)
    blocks = forward_blocks(backbone, todo, source, recipe, batch, on_device=on_device)
    for (number, features), (start, stop) in zip(blocks, spans, strict=True):
        yield number, features
        advance(stop - start)
