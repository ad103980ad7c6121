"""Blocks and batches: how a segment's images are cut for the forward pass."""

from collections.abc import Iterable

from soapworks.storage_schemas.layout.recipes import FeaturesRecipe


class BatchSize:
    """Images per forward pass; halves where memory runs out and stays so.

    Parameters
    ----------
    size
        Number of images to begin with, 1 or more.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def halve(self, error: BaseException) -> None:
        """Halve the batch, or raise the error where a batch is one image already."""
        if self.size == 1:
            raise error
        self.size //= 2


def n_blocks(recipe: FeaturesRecipe) -> int:
    """Return the number of blocks of a segment."""
    return -(-recipe.input.n_images // recipe.block_images)


def block_spans(n_images: int, block_images: int, numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return [start, stop) of the numbered blocks of a segment."""
    return [
        (number * block_images, min((number + 1) * block_images, n_images)) for number in numbers
    ]


def split_span(span: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """Return a span cut in pieces of at most ``size``."""
    start, stop = span
    return [(i, min(i + size, stop)) for i in range(start, stop, size)]
