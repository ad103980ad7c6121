"""What a backbone looks like, known without its weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soapworks.backbones.architectures import Architecture, TimmModel, resolve_architecture
from soapworks.backbones.construction import construct, default_image_size, patch_size_of
from soapworks.backbones.info import BackboneInfo, Size, as_size
from soapworks.backbones.layers import list_layers
from soapworks.synthesis.images import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from soapworks.backbones.checkpoint import Checkpoint


def describe_architecture(
    architecture: str,
    *,
    model_args: dict[str, Any] | None = None,
    image_size: int | Size | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> BackboneInfo:
    """Describe a timm model without building its weights (about 0.1 s).

    Parameters
    ----------
    architecture
        timm name; its tag, if it has one, chooses mean, std and default image size.
    model_args
        Further arguments of the model's constructor.
    image_size
        Side or (height, width) in pixels; the configuration's when None.
    pretrained_cfg
        Configuration to use instead of timm's.

    Raises
    ------
    CheckpointError
        If timm has no such plain vision transformer or cannot build it.
    InputError
        If the image size is not a multiple of the patch size.
    """
    found = resolve_architecture(architecture, model_args=model_args)
    if pretrained_cfg is not None:
        found = found._replace(pretrained_cfg=dict(pretrained_cfg))
    return _describe(found, image_size)


def describe_checkpoint(
    checkpoint: "Checkpoint", *, image_size: int | Size | None = None
) -> BackboneInfo:
    """Describe the backbone that ``build_backbone`` would make of a checkpoint."""
    return _describe(architecture_of(checkpoint), image_size)


def architecture_of(checkpoint: "Checkpoint") -> Architecture:
    """Name, arguments and configuration of a checkpoint."""
    return Architecture(
        checkpoint.architecture, checkpoint.model_args, dict(checkpoint.pretrained_cfg)
    )


def wanted_size(architecture: Architecture, image_size: int | Size | None) -> Size:
    """(height, width) asked for, or the configuration's."""
    return default_image_size(architecture) if image_size is None else as_size(image_size)


def describe_model(model: TimmModel, architecture: Architecture, image_size: Size) -> BackboneInfo:
    """Describe a model prepared by ``construct``."""
    red, green, blue = architecture.pretrained_cfg.get("mean", IMAGENET_MEAN)
    red_std, green_std, blue_std = architecture.pretrained_cfg.get("std", IMAGENET_STD)
    return BackboneInfo(
        architecture=architecture.name,
        patch_size=patch_size_of(model),
        image_size=image_size,
        n_prefix_tokens=model.num_prefix_tokens,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_channels=list_layers(model),
        pretrained_cfg=architecture.pretrained_cfg,
    )


def _describe(architecture: Architecture, image_size: int | Size | None) -> BackboneInfo:
    size = wanted_size(architecture, image_size)
    return describe_model(construct(architecture, size), architecture, size)
