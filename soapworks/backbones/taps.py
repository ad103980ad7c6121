"""Read layers of a timm model in one pass that ends with the deepest of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, cat, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from soapworks.backbones.architectures import TimmModel
from soapworks.backbones.layers import ATTENTION_PARTS
from soapworks.errors import LayerError

Keep = Callable[[str, Tensor], None]


class _DeepestReached(Exception):  # noqa: N818 - a signal, caught here, never seen outside
    """Ends the forward pass from within a hook."""


def read_layers(
    model: TimmModel, images: Tensor, layers: tuple[str, ...], shape: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Run the model as far as the deepest layer and return all layers asked for.

    Parameters
    ----------
    model
        Prepared by ``construct`` or ``load_weights``.
    images
        (image, channel, row, column), on the model's device.
    layers
        Names as in ``layers``, in forward order.
    shape
        What to keep of a layer's tokens (image, token, channel); runs as soon as the layer is
        computed, so the rest can be freed.

    Raises
    ------
    LayerError
        If the forward pass ends without having passed a layer.
    """
    kept: dict[str, Tensor] = {}

    def keep(layer: str, tokens: Tensor) -> None:
        if layer in layers and layer not in kept:
            kept[layer] = shape(tokens)
            if len(kept) == len(layers):
                raise _DeepestReached

    with _hooked(model, layers, keep), suppress(_DeepestReached):
        model.forward_features(images)
    if absent := [layer for layer in layers if layer not in kept]:
        raise LayerError(f"the model's forward pass does not go through {', '.join(absent)}")
    return {layer: kept[layer] for layer in layers}


@contextmanager
def _hooked(model: TimmModel, layers: tuple[str, ...], keep: Keep) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    attentions = dict.fromkeys(
        layer.rpartition(".")[0] for layer in layers if layer.rpartition(".")[2] in ATTENTION_PARTS
    )
    try:
        for name in attentions:
            handles += _hook_attention(name, model.get_submodule(name), keep)
        for layer in layers:
            if layer.rpartition(".")[0] not in attentions:
                handles.append(
                    model.get_submodule(layer).register_forward_hook(_keeper(layer, keep))
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeper(layer: str, keep: Keep) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        keep(layer, output)

    return hook


def _hook_attention(name: str, attention: TimmModel, keep: Keep) -> list[RemovableHandle]:
    """Hook the projections of one attention; timm has three forms of them."""

    def keep_parts(q: Tensor, k: Tensor, v: Tensor) -> None:
        for part, tokens in (("q", q), ("k", k), ("v", v)):
            keep(f"{name}.{part}", tokens)
        keep(f"{name}.kqv", cat((k, q, v), dim=-1))

    if attention.qkv is None:
        return _hook_separate(attention, keep_parts)

    def after_projection(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        keep_parts(*output.chunk(3, dim=-1))

    def before_attention(module: TimmModel, inputs: tuple[Tensor, ...]) -> None:
        bias = cat((module.q_bias, module.k_bias, module.v_bias))
        keep_parts(*functional.linear(inputs[0], module.qkv.weight, bias).chunk(3, dim=-1))

    if getattr(attention, "q_bias", None) is None:
        return [attention.qkv.register_forward_hook(after_projection)]
    # With a bias of its own timm uses the module's weight without calling it.
    return [attention.register_forward_pre_hook(before_attention)]


def _hook_separate(
    attention: TimmModel, keep_parts: Callable[[Tensor, Tensor, Tensor], None]
) -> list[RemovableHandle]:
    seen: dict[str, Tensor] = {}

    def catcher(part: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[part] = output
            if len(seen) == 3:
                parts = dict(seen)
                seen.clear()
                keep_parts(parts["q"], parts["k"], parts["v"])

        return hook

    return [
        getattr(attention, f"{part}_proj").register_forward_hook(catcher(part)) for part in "qkv"
    ]
