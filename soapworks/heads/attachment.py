"""Put a head into a vision transformer, where its layer is, and take it out again.

For modules built like timm's vision transformers (``blocks``, ``norm``, ``num_prefix_tokens``);
timm itself is not needed.
"""

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from soapworks.backbones.layers import LAYER
from soapworks.errors import HeadError, LayerError
from soapworks.heads.head import SoapHead

_Backbone = TypeVar("_Backbone", bound=nn.Module)

#: Thirds of a fused projection's output (queries, keys, values), in the order of each layer's name.
_THIRDS = {"q": (0,), "k": (1,), "v": (2,), "kqv": (1, 0, 2)}

_CHILD = "soap_head"
_HANDLES = "_soap_handles"


def attach(backbone: _Backbone, head: SoapHead, *, layer: str | None = None) -> _Backbone:
    """Make ``backbone`` project its patch tokens at one layer; prefix tokens stay bit for bit.

    A copy of the head becomes a child of the module that makes the layer, on its device and in its
    dtype, so it moves with the model and is part of its ``state_dict``: load weights before, and
    compile after. At "norm" the head follows every call of the final norm, that is also the
    intermediate outputs that a model is asked to normalise.

    Parameters
    ----------
    backbone : nn.Module
        A vision transformer as timm builds them. It is changed in place.
    head : SoapHead
    layer : str, optional
        Default: the head's own (``metadata["layer"]``), else "norm". "norm", "blocks.K",
        "blocks.K.mlp" (the branch before it is added back) or "blocks.K.attn.q", ".k", ".v" and
        ".kqv" (outputs of the projections, all heads).

    Returns
    -------
    backbone : nn.Module
        The same object.

    Raises
    ------
    LayerError
        When the backbone has no such layer, or none that a head can be put into.
    HeadError
        When channels do not match, a head is there already, or the model is compiled.

    Examples
    --------
    >>> model = soapworks.attach(timm_model, soapworks.SoapHead.load("head/"))  # doctest: +SKIP
    """
    if "_orig_mod" in backbone._modules:
        raise HeadError("a compiled model may ignore a new head: attach first, then compile")
    layer = head.metadata.get("layer", "norm") if layer is None else layer
    place = _find_place(backbone, layer)
    n_prefix_tokens = getattr(backbone, "num_prefix_tokens", None)
    if not isinstance(n_prefix_tokens, int):
        raise HeadError(
            f"{type(backbone).__name__} does not tell its number of prefix tokens "
            "(num_prefix_tokens), so its patch tokens are not known; use a timm vision transformer"
        )
    if place.n_channels is not None and place.n_channels != head.n_channels:
        raise HeadError(
            f"the head has {head.n_channels} channels and layer {layer!r} of this backbone has "
            f"{place.n_channels}; use a head made from this architecture and layer"
        )
    taken = [name for name in place.rivals if name in place.module._modules]
    if taken:
        raise HeadError(f"there is a head at layer {layer!r} already: call soapworks.detach first")
    tensors = [*place.module.parameters(), *backbone.parameters(), head.weight]
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    child = copy.deepcopy(head).to(device=like.device, dtype=like.dtype).train(backbone.training)
    place.module.add_module(place.child, child)
    handle = place.module.register_forward_hook(
        _Projection(place.child, n_prefix_tokens, place.thirds)
    )
    place.module.__dict__.setdefault(_HANDLES, {})[place.child] = handle
    return backbone


def detach(backbone: _Backbone) -> _Backbone:
    """Take all heads out of ``backbone`` again and return it; it is then as it was before."""
    for module in list(backbone.modules()):
        for child, handle in module.__dict__.pop(_HANDLES, {}).items():
            handle.remove()
            del module._modules[child]
    return backbone


@dataclass(frozen=True)
class _Projection:
    """Forward hook that projects patch tokens; it finds the head in the module it is called on.

    It holds no module, so a copied or unpickled backbone uses its own head.
    """

    child: str
    n_prefix_tokens: int
    #: Thirds of the output that the head takes, in this order; none: the whole output.
    thirds: tuple[int, ...]

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        head = getattr(module, self.child)
        if not self.thirds:
            return self._project(output, head)
        parts = list(output.chunk(3, dim=-1))
        chosen = torch.cat([parts[third] for third in self.thirds], dim=-1)
        projected = self._project(chosen, head).chunk(len(self.thirds), dim=-1)
        for third, part in zip(self.thirds, projected, strict=True):
            parts[third] = part
        return torch.cat(parts, dim=-1)

    def _project(self, tokens: torch.Tensor, head: nn.Module) -> torch.Tensor:
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
            raise HeadError("the layer's output is not (image, token, channel), as a head needs it")
        patches = head(tokens[:, self.n_prefix_tokens :]).to(tokens.dtype)
        if not self.n_prefix_tokens:
            return patches
        return torch.cat([tokens[:, : self.n_prefix_tokens], patches], dim=1)


@dataclass(frozen=True)
class _Place:
    """Where a layer's head sits."""

    module: nn.Module
    #: Channels of the layer; None when the module does not tell.
    n_channels: int | None
    child: str = _CHILD
    thirds: tuple[int, ...] = ()
    #: Names of children that may not be there yet.
    rivals: tuple[str, ...] = (_CHILD,)


def _find_place(backbone: nn.Module, layer: str) -> _Place:
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
        return _Place(norm, n_channels)
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
    return _Place(module, n_channels)


def _find_projection(backbone: nn.Module, attention: Any, layer: str, part: str) -> _Place:
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
        return _Place(fused, n_channels, f"{_CHILD}_{part}", thirds, rivals)
    separate = getattr(attention, f"{part}_proj", None)
    if isinstance(separate, nn.Linear):
        return _Place(separate, separate.out_features)
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
