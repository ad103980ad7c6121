"""Names of layers (section 2 of docs/method.md) and which of them a model has.

``blocks.K``
    Residual stream after transformer block K, from 0.
``norm``
    Output of the model's final norm, for every token.
``blocks.K.mlp``
    Output of the block's MLP module: the branch before LayerScale and before it is added back.
``blocks.K.attn.q``, ``.k``, ``.v``, ``.kqv``
    Outputs of the attention's projections, all heads side by side, before any norm or rotation of
    queries and keys; ``kqv`` is keys, queries and values in this order.
"""

import re
from collections.abc import Iterable, Mapping

from soapworks.backbones.architectures import TimmModel
from soapworks.errors import LayerError

ATTENTION_PARTS = ("q", "k", "v", "kqv")
LAYER = re.compile(
    r"(?P<norm>norm)|blocks\.(?P<block>\d+)(?P<tap>\.mlp|\.attn\.(?P<part>q|k|v|kqv))?"
)
"""The grammar of layers' names."""


def is_block(layer: str) -> bool:
    """Return whether a layer is the output of a block.

    Examples
    --------
    >>> [is_block(layer) for layer in ("blocks.3", "blocks.3.mlp", "norm")]
    [True, False, False]
    """
    match = LAYER.fullmatch(layer)
    return bool(match and match["block"] and not match["tap"])


def list_layers(model: TimmModel) -> dict[str, int]:
    """Return the number of channels of every layer of a timm model, in forward order."""
    # Names are resolved without torch too: a run that finds everything done never loads it.
    from soapworks.backbones.construction import has_final_norm

    channels: dict[str, int] = {}
    for index, block in enumerate(model.blocks):
        if widths := _attention_widths(getattr(block, "attn", None)):
            for part in ATTENTION_PARTS:
                channels[f"blocks.{index}.attn.{part}"] = sum(widths[p] for p in part)
        if hasattr(block, "mlp"):
            channels[f"blocks.{index}.mlp"] = model.embed_dim
        channels[f"blocks.{index}"] = model.embed_dim
    if has_final_norm(model):
        channels["norm"] = model.embed_dim
    return channels


def resolve_layers(wanted: str | Iterable[str], known: Mapping[str, int]) -> tuple[str, ...]:
    """Return the layers asked for, each once, in forward order.

    Parameters
    ----------
    wanted
        ``"all"`` (every ``blocks.K`` and ``norm``), names separated by commas, or several of them.
    known
        The model's layers in forward order, see ``list_layers``.

    Raises
    ------
    LayerError
        If a layer is unknown or none is named; the message lists the known ones.
    """
    parts = [wanted] if isinstance(wanted, str) else list(wanted)
    names = [name.strip() for part in parts for name in part.split(",") if name.strip()]
    chosen: set[str] = set()
    for name in names:
        if name == "all":
            chosen |= {layer for layer in known if is_block(layer) or layer == "norm"}
        elif name in known:
            chosen.add(name)
        else:
            raise LayerError(f"there is no layer {name!r}; {summarise_layers(known)}")
    if not chosen:
        raise LayerError(f"no layer is named; {summarise_layers(known)}")
    return tuple(layer for layer in known if layer in chosen)


def summarise_layers(known: Mapping[str, int]) -> str:
    """List the known layers in one short phrase, with a range for the number of the block."""
    indices: dict[str, list[int]] = {}
    for layer in known:
        if (match := LAYER.fullmatch(layer)) and not match["norm"]:
            indices.setdefault(match["tap"] or "", []).append(int(match["block"]))
    blocks = indices.get("", [0])
    suffixes = [suffix for suffix in indices if suffix]
    parts = [f"blocks.{blocks[0]} to blocks.{blocks[-1]}", *(["norm"] if "norm" in known else [])]
    each = f", and after each blocks.K also {', '.join(suffixes)}" if suffixes else ""
    missing = "" if "norm" in known else " (it has no final norm)"
    return f"the model has {', '.join(parts)}{each}{missing}, or all"


def _attention_widths(attention: TimmModel | None) -> dict[str, int] | None:
    if attention is None:
        return None
    if getattr(attention, "qkv", None) is not None:
        width = attention.qkv.out_features // 3
        return {"q": width, "k": width, "v": width}
    if getattr(attention, "q_proj", None) is not None:
        return {part: getattr(attention, f"{part}_proj").out_features for part in "qkv"}
    return None
