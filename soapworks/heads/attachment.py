"""Put a head into a vision transformer, where its layer is, and take it out again.

For modules built like timm's vision transformers (``blocks``, ``norm``, ``num_prefix_tokens``);
timm itself is not needed.
"""

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from soapworks.errors import HeadError
from soapworks.heads._places import find_place
from soapworks.heads.head import SoapHead

_Backbone = TypeVar("_Backbone", bound=nn.Module)

# Plain attributes of modules, so that a copied or unpickled model has its own.
_HANDLES = "_soap_handles"
_ATTACHED = "_soap_attached"
_GUARDS = "_soap_guards"


def attach(backbone: _Backbone, head: SoapHead, *, layer: str | None = None) -> _Backbone:
    """Make a model project its patch tokens at one layer.

    Prefix tokens stay bit for bit. A copy of the head becomes a child of the module that makes the
    layer, on its device and in its dtype, so it moves with the model and is part of its
    ``state_dict``: load weights before, and compile after. At "norm" the head follows every call of
    the final norm, that is also the intermediate outputs that a model is asked to normalise. A
    model that lost its head later, as when ``model.norm`` is replaced, raises HeadError at its next
    pass.

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

    Notes
    -----
    Section 6 of docs/method.md.

    Examples
    --------
    >>> import numpy as np, timm, torch
    >>> model = timm.create_model("test_vit", num_classes=0).eval()
    >>> model = attach(model, SoapHead(np.zeros((64, 64))), layer="norm")
    >>> tokens = model.forward_features(torch.ones(1, 3, 160, 160))
    >>> bool(tokens[:, 0].any()), bool(tokens[:, 1:].any())
    (True, False)
    """
    if "_orig_mod" in backbone._modules:
        raise HeadError("a compiled model may ignore a new head: attach first, then compile")
    layer = head.metadata.get("layer", "norm") if layer is None else layer
    place = find_place(backbone, layer)
    n_prefix_tokens = getattr(backbone, "num_prefix_tokens", None)
    if not isinstance(n_prefix_tokens, int):
        raise HeadError(
            f"{type(backbone).__name__} has no num_prefix_tokens, so its patch tokens are not "
            "known; use a timm vision transformer"
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
    # Tensors made in inference mode could never take part in a backward pass.
    with torch.inference_mode(False):
        child = copy.deepcopy(head).to(device=like.device, dtype=like.dtype)
    child.train(backbone.training)
    place.module.add_module(place.child, child)
    handle = place.module.register_forward_hook(
        _Projection(place.child, n_prefix_tokens, place.thirds)
    )
    place.module.__dict__.setdefault(_HANDLES, {})[place.child] = handle
    path = next(name for name, module in backbone.named_modules() if module is place.module)
    attached = _Attached(layer, tuple(path.split(".")), place.child, child)
    backbone.__dict__.setdefault(_ATTACHED, []).append(attached)
    if _GUARDS not in backbone.__dict__:
        # forward_features and its kin bypass the hooks of the model itself.
        first = getattr(backbone, "patch_embed", None)
        if not isinstance(first, nn.Module):
            first = next(backbone.get_submodule("blocks").children())
        guard = _Guard(backbone)
        backbone.__dict__[_GUARDS] = [
            module.register_forward_pre_hook(guard) for module in (backbone, first)
        ]
    return backbone


def is_attached(backbone: nn.Module, *, layer: str | None = None) -> bool:
    """Return whether a model has its heads, all in place.

    Parameters
    ----------
    backbone : nn.Module
        A vision transformer, or a wrapper around it.
    layer : str, optional
        Ask for the head at this layer only.

    Returns
    -------
    bool
        False where no head was attached, or one was lost: the module that held it was replaced.

    Examples
    --------
    >>> import numpy as np, timm, torch
    >>> model = timm.create_model("test_vit", num_classes=0)
    >>> is_attached(attach(model, SoapHead(np.eye(64))))
    True
    >>> model.norm = torch.nn.Identity()
    >>> is_attached(model)
    False
    """
    heads = [
        attached.is_in(module)
        for module in backbone.modules()
        for attached in module.__dict__.get(_ATTACHED, ())
        if layer in (None, attached.layer)
    ]
    return bool(heads) and all(heads)


def detach(backbone: _Backbone) -> _Backbone:
    """Take all heads out of a model again.

    Parameters
    ----------
    backbone : nn.Module
        With or without heads. It is changed in place, and is then as it was before `attach`.

    Returns
    -------
    backbone : nn.Module
        The same object.

    Examples
    --------
    >>> import numpy as np, timm
    >>> model = attach(timm.create_model("test_vit", num_classes=0), SoapHead(np.eye(64)))
    >>> is_attached(detach(model))
    False
    """
    for module in list(backbone.modules()):
        module.__dict__.pop(_ATTACHED, None)
        for handle in module.__dict__.pop(_GUARDS, ()):
            handle.remove()
        for child, handle in module.__dict__.pop(_HANDLES, {}).items():
            handle.remove()
            module._modules.pop(child, None)
    return backbone


@dataclass(frozen=True, eq=False)
class _Attached:
    """A head of a model."""

    layer: str
    #: Names that lead from the model to the module that held the head.
    path: tuple[str, ...]
    child: str
    head: SoapHead

    def is_in(self, backbone: nn.Module) -> bool:
        """Return whether the head is in place and applied."""
        module: Any = backbone
        for name in self.path:
            module = getattr(module, name, None)
        # The module may also have been wrapped, or moved with its block.
        return self._is_applied(module) or any(map(self._is_applied, backbone.modules()))

    def _is_applied(self, module: Any) -> bool:
        if not isinstance(module, nn.Module) or module._modules.get(self.child) is not self.head:
            return False
        hooks = module._forward_hooks.values()
        return any(isinstance(hook, _Projection) and hook.child == self.child for hook in hooks)


@dataclass(frozen=True, eq=False)
class _Guard:
    """Forward pre-hook that refuses passes without a head."""

    backbone: nn.Module

    def __call__(self, module: nn.Module, args: Any) -> None:
        for attached in self.backbone.__dict__.get(_ATTACHED, ()):
            if not attached.is_in(self.backbone):
                raise HeadError(
                    f"the model lost its head at layer {attached.layer!r}: the module that held it "
                    "was replaced; call soapworks.detach, then attach the head again, or leave it"
                )


@dataclass(frozen=True)
class _Projection:
    """Forward hook that projects patch tokens with its module's head.

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
