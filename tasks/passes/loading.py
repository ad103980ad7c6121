"""What a forward pass needs: the network, the images and how many go through at once."""

from functools import lru_cache
from typing import TYPE_CHECKING

from soapworks.errors import CheckpointError
from soapworks.images.listing import open_folder
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.passes.sources import ImageSource, RealSource, SyntheticSource
from soapworks.tasks.plan.recipes import CheckpointPlan
from soapworks.tasks.plan.request import PlannedRequest

if TYPE_CHECKING:
    from soapworks.backbones import Backbone

BATCH_SIZES = {"cpu": 16}
"""Images per forward pass by kind of device; 64 on all others."""


class BatchSize:
    """Images per forward pass; halved, and remembered, where memory runs out.

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


def open_source(
    request: PlannedRequest, plan: CheckpointPlan, recipe: FeaturesRecipe
) -> ImageSource:
    """Return the images of one segment of features."""
    if recipe.input.domain == "real":
        number = plan.manifest.recipe.segments.index(recipe.input.images)
        return RealSource(
            open_folder(request.images),
            plan.manifest.segments[number],
            plan.preprocessing,
            request.options.workers,
        )
    return SyntheticSource(
        recipe.input,
        plan.preprocessing.size,
        recipe.mean,
        recipe.std,
        resolve_device(request.options.device),
    )


def batch_size(request: PlannedRequest) -> BatchSize:
    """Return the batch size of a request: one for all its passes, as long as the process lives."""
    device = resolve_device(request.options.device)
    return _batch_sizes(
        request.checkpoint, request.options.batch_size or BATCH_SIZES.get(device, 64)
    )


@lru_cache(maxsize=8)
def _batch_sizes(checkpoint: str, size: int) -> BatchSize:
    """Return the one batch size of a checkpoint in this process: a halved one is remembered."""
    return BatchSize(size)


def load_backbone(request: PlannedRequest, plan: CheckpointPlan) -> "Backbone":
    """Return the network on its device, loaded once.

    Raises
    ------
    CheckpointError
        Where the checkpoint was changed since it was identified.
    """
    return _load_backbone(
        request.asked,
        plan.identity.digest,
        plan.preprocessing.size,
        resolve_device(request.options.device),
        request.settings.precision,
    )


@lru_cache(maxsize=1)
def _load_backbone(
    asked: tuple[str, str | None, str | None],
    digest: str,
    image_size: int,
    device: str,
    precision: str,
) -> "Backbone":
    from soapworks.backbones import build_backbone, open_checkpoint

    identifier, architecture, part = asked
    checkpoint = open_checkpoint(identifier, architecture=architecture, part=part)
    if checkpoint.digest != digest:
        raise CheckpointError(
            f"{identifier} was changed while the run was under way: run the same command again."
        )
    backbone = build_backbone(checkpoint, image_size=image_size, device=device, precision=precision)
    for note in backbone.notes:
        emit(Notice(f"{identifier}: {note}"))
    return backbone


def resolve_device(device: str) -> str:
    """Return the device meant by ``auto``: the first CUDA device, Apple's, or the CPU."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
