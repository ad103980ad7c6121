"""Weights in several files, as transformers and the hub split them: an index lists the shards."""

import json
from pathlib import Path
from typing import Any

from soapworks.backbones.files.names import INDEX_NAMES, has_weights_suffix
from soapworks.errors import CheckpointError

MAX_SHARDS = 10_000
_MAX_INDEX_BYTES = 64 << 20


def is_index(source: str) -> bool:
    """Return whether a path or URL is the index of weights in shards.

    Examples
    --------
    >>> is_index("s3://models/vit/model.safetensors.index.json"), is_index("model.safetensors")
    (True, False)
    """
    return source.replace("\\", "/").rpartition("/")[2] in INDEX_NAMES


def read_index(path: Path, *, where: str) -> dict[str, list[str]]:
    """Return the names of the shards and of the tensors in each, sorted.

    Parameters
    ----------
    path
        The index on this machine.
    where
        What to call it in messages.

    Raises
    ------
    CheckpointError
        If it is no index, or names files elsewhere than beside it.
    """
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise CheckpointError(f"{where} is larger than {_MAX_INDEX_BYTES} bytes: no index")
        weight_map: Any = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, shard in sorted(weight_map.items()):
            shards.setdefault(shard, []).append(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{where} is no index of shards ({error})") from error
    for shard in shards:
        if not isinstance(shard, str) or shard != Path(shard).name or not has_weights_suffix(shard):
            raise CheckpointError(f"{where} names {str(shard)[:80]!r}, which is no file beside it")
    if not 0 < len(shards) <= MAX_SHARDS:
        raise CheckpointError(f"{where} names {len(shards)} shards; 1 to {MAX_SHARDS} are read")
    return shards


def check_shard(found: Any, names: list[str], *, where: str) -> None:
    """Raise CheckpointError unless a shard holds the tensors that the index lists for it."""
    missing = [name for name in names if name not in found]
    extra = [str(name) for name in found if name not in set(names)]
    if missing or extra:
        raise CheckpointError(
            f"{where} differs from its index: {len(missing)} missing and {len(extra)} unlisted "
            f"({', '.join([*missing, *extra][:4])}); download or save all shards again"
        )
