"""What is known of a backbone without its weights; needs no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from soapworks.backbones.layers import is_block, resolve_layers, summarise_layers
from soapworks.errors import InputError, LayerError

Size = tuple[int, int]
Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class BackboneInfo:
    """Shapes and layers of a backbone at one image size."""

    architecture: str
    """timm's name without the tag of its weights."""
    patch_size: Size
    """(height, width) in pixels."""
    image_size: Size
    """(height, width) in pixels."""
    n_prefix_tokens: int
    """Class and register tokens in front of the patch tokens."""
    mean: Triple
    """Subtracted from images in [0, 1], per channel (red, green, blue)."""
    std: Triple
    """Divides images after the mean is subtracted."""
    n_parameters: int
    """Parameters of the backbone, without classifier and pooling."""
    layer_channels: Mapping[str, int]
    """Number of channels of every layer, in forward order."""
    pretrained_cfg: Mapping[str, Any]
    """timm's configuration: also interpolation, crop_pct, crop_mode."""

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return sum(is_block(layer) for layer in self.layer_channels)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patch tokens."""
        height, width = self.patch_size
        return self.image_size[0] // height, self.image_size[1] // width

    @property
    def known_layers(self) -> tuple[str, ...]:
        """Every layer that can be read, in forward order."""
        return tuple(self.layer_channels)

    def n_channels(self, layer: str) -> int:
        """Number of channels of a layer; LayerError if there is no such layer."""
        if layer not in self.layer_channels:
            raise LayerError(
                f"there is no layer {layer!r}; {summarise_layers(self.layer_channels)}"
            )
        return self.layer_channels[layer]

    def resolve_layers(self, layers: str | Iterable[str]) -> tuple[str, ...]:
        """Layers asked for, in forward order: ``"all"``, ``"norm,blocks.5"`` or a list."""
        return resolve_layers(layers, self.layer_channels)


def as_size(size: Any) -> Size:
    """(height, width) from one number or two, or InputError."""
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise InputError(f"an image size is one or two positive whole numbers, got {size!r:.80}")
    return pair


def check_image_size(image_size: Size, patch_size: Size) -> None:
    """Raise InputError with the nearest valid sizes unless patches tile the image."""
    for side, patch in zip(image_size, patch_size, strict=True):
        if side % patch:
            nearest = [
                str(near) for near in (side // patch * patch, -(-side // patch) * patch) if near
            ]
            raise InputError(
                f"an image size of {side} pixels is not a multiple of the patch size {patch}: "
                f"choose {' or '.join(nearest)}"
            )
