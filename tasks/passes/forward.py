"""The forward passes of an extraction: batches through a backbone, a block at a time.

On a GPU a batch's features are cast there, copied into page-locked memory while the next batch is
being computed, and checked one batch late. On a CPU the same code runs in turn.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from soapworks.errors import PrecisionError, RoundingError
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.passes.loading import BatchSize
from soapworks.tasks.passes.rounding import (
    TokenMoments,
    checks_components,
    rounding_fault,
    token_moments,
)
from soapworks.tasks.passes.sources import ImageSource

if TYPE_CHECKING:
    from soapworks.backbones import Backbone


@dataclass(frozen=True)
class Computed:
    """A batch on its way."""

    block: int
    """Number of the block it belongs to."""
    start: int
    """Number of its first image in the segment."""
    features: dict[str, list[torch.Tensor]]
    """Pieces of the batch's features per layer, in the stored dtype."""
    moments: dict[str, list[TokenMoments]]
    """Moments of the pieces before they were rounded, of layers stored in float16."""
    finite: torch.Tensor
    """Per layer, a sum that is finite if all its values are; on the host."""
    copied: torch.cuda.Event | None
    """Reached when the copies are done; None where they are done already."""


def forward_blocks(
    backbone: "Backbone",
    todo: Mapping[int, Sequence[str]],
    source: ImageSource,
    recipes: Mapping[str, FeaturesRecipe],
    batch: BatchSize,
    *,
    on_device: bool = False,
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield (block number, features (image, row, column, channel) of each missing layer).

    Parameters
    ----------
    backbone
        The network, on its device.
    todo
        Layers that are missing, by block number.
    source
        The segment's images.
    recipes
        Features recipe of each layer; input and blocks are the same for all.
    batch
        Images per forward pass.
    on_device
        Leave features on the GPU where they were computed on one; else they come to the host.

    Raises
    ------
    PrecisionError
        NaN or infinity in the features.
    RoundingError
        Features that float16 does not hold, in layers to be stored in it.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    moments: dict[str, list[TokenMoments]] = {}
    batches = _compute(backbone, todo, source, recipes, batch, on_device)
    for batch_of, last in _one_behind(batches):
        for layer, pieces in _arrived(batch_of, source, recipes).items():
            parts.setdefault(layer, []).extend(pieces)
        for layer, some in batch_of.moments.items():
            moments.setdefault(layer, []).extend(some)
        if last:
            faults = {layer: rounding_fault(recipes[layer], m) for layer, m in moments.items()}
            if found := {layer: fault for layer, fault in faults.items() if fault}:
                raise RoundingError(found)
            moments = {}
            yield batch_of.block, {layer: torch.cat(some) for layer, some in parts.items()}
            parts = {}


def _compute(
    backbone: "Backbone",
    todo: Mapping[int, Sequence[str]],
    source: ImageSource,
    recipes: Mapping[str, FeaturesRecipe],
    batch: BatchSize,
    on_device: bool,
) -> Iterator[tuple[Computed, bool]]:
    """Yield (batch, whether it is its block's last), each launched but maybe still under way."""
    recipe = next(iter(recipes.values()))
    pieces = [
        (number, piece, piece[1] == recipe.span(number)[1])
        for number in todo
        for piece in split_span(recipe.span(number), batch.size)
    ]
    images = source.batches([piece for _, piece, _ in pieces])
    for (number, (start, _), last), inputs in zip(pieces, images, strict=True):
        layers = {layer: recipes[layer] for layer in todo[number]}
        yield _launch(backbone, inputs, layers, batch, number, start, on_device), last


def split_span(span: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """Return a span cut in pieces of at most ``size``."""
    start, stop = span
    return [(i, min(i + size, stop)) for i in range(start, stop, size)]


def _launch(
    backbone: "Backbone",
    images: torch.Tensor,
    recipes: Mapping[str, FeaturesRecipe],
    batch: BatchSize,
    block: int,
    start: int,
    on_device: bool,
) -> Computed:
    while True:
        features: dict[str, list[torch.Tensor]] = {layer: [] for layer in recipes}
        moments: dict[str, list[TokenMoments]] = {}
        sums = []
        try:
            for some in images.split(batch.size):
                for layer, values in backbone.features(some, tuple(recipes)).items():
                    recipe = recipes[layer]
                    stored = values.to(getattr(torch, recipe.dtype))
                    if recipe.dtype == "float16":
                        found = token_moments(values, covariance=checks_components(recipe, block))
                        mean, second = _to_host(found.mean), _to_host(found.second)
                        part = replace(found, mean=mean, second=second)
                        moments.setdefault(layer, []).append(part)
                    sums.append(stored.sum(dtype=torch.float32))
                    features[layer].append(stored if on_device else _to_host(stored))
        except (torch.OutOfMemoryError, MemoryError) as error:
            batch.halve(error)
            emit(Notice(f"memory ran out: the batch is {batch.size} images from now on"))
            continue
        finite = _to_host(torch.stack(sums))
        copied = None
        if sums[0].is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        return Computed(block, start, features, moments, finite, copied)


def _to_host(values: torch.Tensor) -> torch.Tensor:
    """Start the copy to page-locked memory; on a CPU nothing is to be copied."""
    if not values.is_cuda:
        return values.cpu()
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)


def _one_behind(
    batches: Iterator[tuple[Computed, bool]],
) -> Iterator[tuple[Computed, bool]]:
    """Yield each batch after the next one was launched, where a device works on its own."""
    waiting: deque[tuple[Computed, bool]] = deque()
    for item in batches:
        waiting.append(item)
        if item[0].copied is None or len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _arrived(
    batch: Computed, source: ImageSource, recipes: Mapping[str, FeaturesRecipe]
) -> dict[str, list[torch.Tensor]]:
    """Return the batch's features once they are there, refused where not finite."""
    if batch.copied is not None:
        batch.copied.synchronize()
    if not torch.isfinite(batch.finite).all():
        for layer, pieces in batch.features.items():
            values = torch.cat(pieces).cpu().numpy()
            means = [part.mean for part in batch.moments.get(layer, [])]
            overflows = bool(means) and bool(torch.isfinite(torch.stack(means)).all())
            _check_finite(values, source, batch.start, recipes[layer], overflows=overflows)
    return batch.features


def _check_finite(
    values: np.ndarray,
    source: ImageSource,
    start: int,
    recipe: FeaturesRecipe,
    *,
    overflows: bool,
) -> None:
    """Refuse NaN and infinity, naming layer, image and channel.

    Parameters
    ----------
    values, source, start, recipe
        Features of images from ``start`` on.
    overflows
        Whether they were finite before they were rounded.
    """
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        return
    image, row, column, channel = (int(i) for i in bad[0])
    value = values[image, row, column, channel]
    cure = (
        f"values beyond {np.finfo(recipe.dtype).max:g} overflow the stored {recipe.dtype}"
        if overflows
        else "the weights or the precision of the forward pass are at fault: try --precision "
        "float32, and check the checkpoint"
    )
    message = (
        f"{recipe.subject.architecture} {recipe.subject.layer}: {value} in channel {channel} "
        f"at row {row}, column {column} of {source.name(start + image)} "
        f"({len(bad)} such values in the batch); {cure}"
    )
    raise RoundingError({recipe.subject.layer: message}) if overflows else PrecisionError(message)
