"""Walk what a training script saved, whatever it is, in bounded time."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from soapworks.errors import CheckpointError

Path = tuple[str, ...]

MAX_NODES = 2_000_000
"""Objects that are visited in a file before it is refused."""

_MAX_DEPTH = 12
_AVERAGES = ("ema_weights", "shadow_params")


class Group(NamedTuple):
    """Tensors that lie side by side in a mapping."""

    path: Path
    """Keys that lead to the mapping."""
    tensors: dict[str, torch.Tensor]
    """Name to tensor, without the marks of wrappers."""


class NamelessAverage(NamedTuple):
    """Averaged weights that were saved as a list."""

    path: Path
    tensors: list[torch.Tensor]


def find_groups(content: Mapping[Any, Any], *, where: str) -> list[Group | NamelessAverage]:
    """Return every group of named tensors in nested mappings, outermost first.

    Each object is visited once, so shared ones cost no more than their number.

    Parameters
    ----------
    content
        Mappings, lists, tensors and anything else.
    where
        The file, for messages.

    Raises
    ------
    CheckpointError
        If there are more than ``MAX_NODES`` objects.

    Examples
    --------
    >>> import torch
    >>> groups = find_groups({"epoch": 3, "model": {"norm.bias": torch.ones(2)}}, where="a.pth")
    >>> [(group.path, list(group.tensors)) for group in groups]
    [(('model',), ['norm.bias'])]
    """
    return list(_walk(content, where))


def _walk(content: Mapping[Any, Any], where: str) -> Iterator[Group | NamelessAverage]:
    seen = {id(content)}
    level: list[tuple[Path, Mapping[Any, Any]]] = [((), content)]
    n_nodes = 0
    for _ in range(_MAX_DEPTH):
        inner: list[tuple[Path, Mapping[Any, Any]]] = []
        for path, mapping in level:
            n_nodes += len(mapping)
            if n_nodes > MAX_NODES:
                raise CheckpointError(
                    f"{where} holds more than {MAX_NODES} objects: save the tensors alone"
                )
            tensors = {n: t for n, t in mapping.items() if isinstance(n, str) and _is_tensor(t)}
            if tensors:
                yield Group(path, without_marks(tensors, where=where))
            for key, value in mapping.items():
                if not isinstance(key, str) or id(value) in seen:
                    continue
                if isinstance(value, Mapping):
                    seen.add(id(value))
                    inner.append(((*path, key), value))
                elif key in _AVERAGES and isinstance(value, list | tuple):
                    yield NamelessAverage((*path, key), [t for t in value if _is_tensor(t)])
        level = inner


def without_marks(
    tensors: Mapping[str, torch.Tensor], *, where: str = ""
) -> dict[str, torch.Tensor]:
    """Take the marks of FSDP, activation checkpointing and torch.compile out of names.

    Raises
    ------
    CheckpointError
        If two names become the same.

    Examples
    --------
    >>> list(without_marks({"blocks.0._orig_mod.norm1.weight": torch.ones(1)}))
    ['blocks.0.norm1.weight']
    """
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for mark in ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."):
            name = name.replace(mark, "")
        if name in plain:
            raise CheckpointError(f"{where} holds {name} twice, with and without a wrapper's mark")
        plain[name] = tensor
    return plain


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
