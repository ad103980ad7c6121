"""Build timm models for their features: no classifier, no pooling, a final norm on every token."""

from typing import Any

import torch
from torch import nn

from soapworks.backbones.architectures import Architecture, TimmModel
from soapworks.backbones.info import Size, as_size, check_image_size
from soapworks.errors import CheckpointError


def construct(architecture: Architecture, image_size: Size, *, device: str = "meta") -> TimmModel:
    """Build a model without weights.

    Models that normalise after pooling (``fc_norm``) normalise every token with that norm
    instead, so ``forward_features`` ends with the final norm in all models that have one.

    Parameters
    ----------
    architecture
        Name, arguments and configuration.
    image_size
        (height, width) in pixels, multiples of the patch size.
    device
        ``meta`` allocates nothing; ``cpu`` fills buffers (parameters are random).

    Raises
    ------
    CheckpointError
        If timm cannot build it.
    InputError
        If the image size is not a multiple of the patch size.
    """
    arguments = architecture.model_args | {"img_size": image_size, "num_classes": 0}
    try:
        # Random initialisation must not disturb the caller's random numbers.
        with torch.random.fork_rng(devices=[]), torch.device(device):
            model = _create(architecture, arguments)
    except Exception as error:
        # Arguments come from files, and timm answers bad ones with any exception.
        given = str(architecture.model_args or "defaults")[:300]
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"timm cannot build {architecture.name} with {given}: {reason.rstrip('.')}"
        ) from error
    check_image_size(image_size, patch_size_of(model))
    _drop_pooling(model)
    return model.eval().requires_grad_(False)


def default_image_size(architecture: Architecture) -> Size:
    """(height, width) that the configuration asks for, in pixels."""
    size = architecture.model_args.get("img_size")
    if size is None:
        size = architecture.pretrained_cfg.get("input_size", (3, 224, 224))[-2:]
    return as_size(size)


def patch_size_of(model: TimmModel) -> Size:
    """Patch (height, width) in pixels."""
    return as_size(model.patch_embed.feat_ratio(as_scalar=False))


def has_final_norm(model: TimmModel) -> bool:
    """Whether tokens are normalised after the last block."""
    return not isinstance(model.norm, nn.Identity)


def _create(architecture: Architecture, arguments: dict[str, Any]) -> TimmModel:
    import timm

    config = architecture.pretrained_cfg
    try:
        # With it the position embedding follows the images' size; Beit cannot.
        return timm.create_model(
            architecture.name, pretrained_cfg=config, dynamic_img_size=True, **arguments
        )
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
    return timm.create_model(architecture.name, pretrained_cfg=config, **arguments)


def _drop_pooling(model: TimmModel) -> None:
    if not has_final_norm(model):
        model.norm = model.fc_norm
    model.fc_norm = nn.Identity()
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool = None
