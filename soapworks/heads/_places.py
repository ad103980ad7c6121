"""The places in a vision transformer where a head can sit, by the names of layers."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from soapworks.backbones.layers import LAYER
from soapworks.errors import LayerError

#: Thirds of a fused projection's output (queries, keys, values), in the order of each layer's name.
_THIRDS = {"q": (0,), "k": (1,), "v": (2,), "kqv": (1, 0, 2)}

_CHILD = "soap_head"


@dataclass(frozen=True)
class Place:
    """The module that makes a layer, and how a head sits in it."""

    module: nn.Module
    #: Channels of the layer; None when the module has no number of them.
    n_channels: int | None
    child: str = _CHILD
    thirds: tuple[int, ...] = ()
    #: Names of children that may not be there yet.
    rivals: tuple[str, ...] = (_CHILD,)


def find_place(backbone: nn.Module, layer: str) -> Place:
    """Return where the head of a layer sits.

    Raises
    ------
    LayerError
        When the backbone has no such layer, or none that a head can be put into.
    """
    match = LAYER.fullmatch(layer)
    blocks = getattr(backbone, "blocks", None)
    if match is None or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        raise LayerError(_no_layer(backbone, layer))
    width = getattr(backbone, "embed_dim", None)
    n_channels = width if isinstance(width, int) else None
    if layer == "norm":
        norm = getattr(backbone, "norm", None)
        if not isinstance(norm, nn.Module):
            raise LayerError(_no_layer(backbone, layer))
        if isinstance(norm, nn.Identity):
            raise LayerError(
                f"the final norm of this {type(backbone).__name__} is an identity (it pools first "
                f"and normalises then); use layer 'blocks.{len(blocks) - 1}', or build the model "
                "with its norm on tokens (timm: global_pool='token' or fc_norm=False)"
            )
        return Place(norm, n_channels)
    index = int(match["block"])
    if index >= len(blocks):
        raise LayerError(_no_layer(backbone, layer))
    block = blocks[index]
    if match["part"]:
        return _find_projection(backbone, getattr(block, "attn", None), layer, match["part"])
    module = getattr(block, "mlp", None) if match["tap"] else block
    # A child of a Sequential would be run as one of its steps besides.
    if not isinstance(module, nn.Module) or isinstance(module, nn.Sequential | nn.ModuleList):
        raise LayerError(_no_layer(backbone, layer))
    return Place(module, n_channels)


def _find_projection(backbone: nn.Module, attention: Any, layer: str, part: str) -> Place:
    fused = getattr(attention, "qkv", None)
    if isinstance(fused, nn.Linear):
        if getattr(attention, "q_bias", None) is not None:
            raise LayerError(
                f"{layer!r} cannot take a head: {type(attention).__name__} uses the weight of its "
                "qkv projection without calling it; use the block's own output or its mlp"
            )
        thirds = _THIRDS[part]
        rivals = tuple(f"{_CHILD}_{p}" for p in (_THIRDS if part == "kqv" else (part, "kqv")))
        n_channels = fused.out_features // 3 * len(thirds)
        return Place(fused, n_channels, f"{_CHILD}_{part}", thirds, rivals)
    separate = getattr(attention, f"{part}_proj", None)
    if isinstance(separate, nn.Linear):
        return Place(separate, separate.out_features)
    if part == "kqv" and isinstance(getattr(attention, "q_proj", None), nn.Linear):
        raise LayerError(
            f"{layer!r} cannot take a head: {type(attention).__name__} projects queries, keys and "
            "values one after another; use '.q', '.k' or '.v' of this block"
        )
    raise LayerError(_no_layer(backbone, layer))


def _no_layer(backbone: nn.Module, layer: str) -> str:
    name = type(backbone).__name__
    blocks = getattr(backbone, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return (
            f"{name} has no layer {layer!r}, for it has no blocks: give the vision transformer "
            "itself, not a wrapper around it"
        )
    return (
        f"{name} has no layer {layer!r}; it has norm and blocks.K, blocks.K.mlp, "
        f"blocks.K.attn.q, .k, .v and .kqv for K from 0 to {len(blocks) - 1}"
    )
