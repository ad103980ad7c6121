"""Backbones and layer taps.

From the name of a checkpoint to the features of its layers: ``open_checkpoint`` finds the weights
and says what they are, ``build_backbone`` fits them to their architecture, ``Backbone.features``
reads any number of layers in one pass.  Only timm's plain vision transformers (classes
VisionTransformer, Eva and Beit) are backbones; code from a hub is never run, so models that exist
as torch.hub code alone (CAPI) are out of reach.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Backbone": "backbone",
    "BackboneInfo": "info",
    "Checkpoint": "checkpoint",
    "PRECISIONS": "backbone",
    "build_backbone": "backbone",
    "describe_architecture": "description",
    "describe_checkpoint": "description",
    "open_checkpoint": "checkpoint",
    "weights_digest": "digest",
}

__all__ = [
    "PRECISIONS",
    "Backbone",
    "BackboneInfo",
    "Checkpoint",
    "build_backbone",
    "describe_architecture",
    "describe_checkpoint",
    "open_checkpoint",
    "weights_digest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'soapworks.backbones' has no attribute {name!r}")
    value = getattr(import_module(f"soapworks.backbones.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from soapworks.backbones.backbone import PRECISIONS, Backbone, build_backbone
    from soapworks.backbones.checkpoint import Checkpoint, open_checkpoint
    from soapworks.backbones.description import describe_architecture, describe_checkpoint
    from soapworks.backbones.digest import weights_digest
    from soapworks.backbones.info import BackboneInfo
