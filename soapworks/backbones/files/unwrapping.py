"""From what a training script saved to the backbone's own tensors.

Training scripts wrap the weights in dictionaries (``state_dict``, ``model``, ``teacher``...) and
prefix their names (``module.``, ``backbone.``...).  Which part is taken never depends on the order
of keys, and where several candidates exist the order of the tuples below decides:
averaged before raw weights, the teacher before the student, and, for I-JEPA, the context
``encoder`` before the ``target_encoder``, as timm does.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from soapworks.errors import CheckpointError

WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "teacher",
    "encoder",
    "target_encoder",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "backbone",
    "network",
    "net",
    "student",
)
"""Keys that wrap the weights, the preferred ones first."""

PREFIXES = (
    "model_ema",
    "ema",
    "teacher",
    "encoder",
    "target_encoder",
    "module",
    "_orig_mod",
    "model",
    "backbone",
    "network",
    "net",
    "student",
)
"""Words that may stand in front of every name of the backbone, the preferred ones first."""

_ANCHOR = "patch_embed.proj.weight"
_MAX_DEPTH = 8


class Unwrapped(NamedTuple):
    """The backbone's tensors and how they were found."""

    tensors: dict[str, torch.Tensor]
    """Names without prefix."""
    part: str
    """Wrappers and prefix that were taken off, e.g. ``teacher/backbone.``; empty if none."""
    n_left_out: int
    """Tensors beside the backbone (other parts under other prefixes)."""


def unwrap(content: Mapping[Any, Any], *, where: str) -> Unwrapped:
    """Find the backbone's tensors in what a file holds.

    Parameters
    ----------
    content
        What ``read_weights_file`` returned.
    where
        The file, for messages.

    Raises
    ------
    CheckpointError
        If there are no tensors, or a tensor claims more bytes than its storage holds.
    """
    path: list[str] = []
    while (key := _wrapper(content)) is not None and len(path) < _MAX_DEPTH:
        path.append(key)
        content = content[key]
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        found = ", ".join(sorted(map(repr, content))[:8]) or "nothing"
        raise CheckpointError(
            f"{where} holds no tensors under a known name (found {found}): save the model's "
            "state_dict, plain or under 'state_dict', 'model' or 'teacher'"
        )
    prefix = _prefix(tensors)
    kept = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    for name, tensor in kept.items():
        _check_tensor(name, tensor, where)
    return Unwrapped(kept, "/".join([*path, prefix]).rstrip("/"), len(tensors) - len(kept))


def _wrapper(content: Mapping[Any, Any]) -> str | None:
    nested = [k for k, v in content.items() if isinstance(k, str) and _holds_tensors(v)]
    for key in WRAPPERS:
        if key in nested:
            return key
    has_tensors = any(isinstance(value, torch.Tensor) for value in content.values())
    return nested[0] if len(nested) == 1 and not has_tensors else None


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, Mapping) or depth > _MAX_DEPTH:
        return False
    return any(
        isinstance(inner, torch.Tensor) or _holds_tensors(inner, depth + 1)
        for inner in value.values()
    )


def _prefix(names: Mapping[str, Any]) -> str:
    anchored = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
    candidates = [p for p in anchored if all(word in PREFIXES for word in p.split(".")[:-1])]
    if candidates:
        return min(candidates, key=_preference)
    if anchored:
        return ""  # e.g. visual.trunk.: timm's own conversion knows what to do with it
    prefix = ""
    while True:
        word = next(iter(names)).removeprefix(prefix).partition(".")[0]
        longer = f"{prefix}{word}."
        if word not in PREFIXES or not all(name.startswith(longer) for name in names):
            return prefix
        prefix = longer


def _preference(prefix: str) -> tuple[int, list[int], str]:
    words = prefix.split(".")[:-1]
    # An unprefixed backbone is the model itself; otherwise the most preferred word decides.
    return (len(words) > 0, sorted(PREFIXES.index(word) for word in words), prefix)


def _check_tensor(name: str, tensor: torch.Tensor, where: str) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise CheckpointError(
            f"{where}: tensor {name!r} is sparse or quantized: save the weights as dense tensors"
        )
    # A stride of 0 lets a few bytes claim any shape; copying it would exhaust memory.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{where}: tensor {name!r} claims shape {tuple(tensor.shape)} but holds only "
            f"{tensor.untyped_storage().nbytes()} bytes: save it again with .contiguous()"
        )
