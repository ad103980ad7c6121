"""The files and lengths that a product must have, by its recipe and facts, before one is read.

A completion record lists what was written; a record that forgets a file would make a product whole
that is not. So the list is derived a second time, from what the product is.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.layout.arrays import ARRAYS, GROUP, ArraySpec
from soapworks.storage_schemas.layout.evaluations import VALUES_TABLE
from soapworks.storage_schemas.layout.manifest import IMAGES_TABLE, UNREADABLE_TABLE
from soapworks.storage_schemas.layout.tables import SCORES_TABLE

FILES: dict[str, tuple[str, ...]] = {
    "checkpoints": ("identity.json",),
    "images": (IMAGES_TABLE, UNREADABLE_TABLE),
    "precision": ("precision.json",),
    "scores": (SCORES_TABLE,),
    "heads": ("head.safetensors", SCORES_TABLE),
    "evaluations": (VALUES_TABLE,),
}
"""Files of every kind of product that holds no arrays."""


def forgotten_files(
    kind: str, recipe: Mapping[str, Any], facts: Mapping[str, Any], files: Iterable[str]
) -> list[tuple[str, str]]:
    """Return (path, what is wrong) for what a record should list and does not.

    Parameters
    ----------
    kind, recipe, facts
        The product's; both distrusted.
    files
        Paths that its record lists.
    """
    listed = set(files)
    wanted = list(FILES.get(kind, ()))
    wrong: list[tuple[str, str]] = []
    specs = [spec for spec in ARRAYS.get(kind, ()) if not spec.optional]
    if specs:
        wanted.append(f"{GROUP}/zarr.json")
    for spec in specs:
        folder = f"{GROUP}/{spec.name}"
        wanted.append(f"{folder}/zarr.json")
        n = _n_chunks(spec, kind, recipe, facts)
        # Compared before they are enumerated: the number is as distrusted as the record.
        if n is None or n > len(listed):
            wrong.append((f"{folder}/c", f"lacks chunks: {n or 'an unknown number'} must be there"))
            continue
        inner = "/0" * (len(spec.dims) - 1)
        wanted += [f"{folder}/c/{i}{inner}" for i in range(n)] if spec.dims else [f"{folder}/c"]
    return wrong + [
        (path, "is not in the completion record") for path in wanted if path not in listed
    ]


def known_lengths(recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, int]:
    """Return axis -> length, as far as a product's recipe and facts state it.

    Raises
    ------
    DamagedProductError
        If the two contradict each other.
    """
    names = {"n_channels": "channel", "n_components": "component", "n_blocks": "block"}
    found = {axis: facts[fact] for fact, axis in names.items() if fact in facts}
    grid, source = facts.get("grid"), recipe.get("input")
    if isinstance(grid, list) and len(grid) == 2:
        found |= {"row": grid[0], "column": grid[1]}
    if isinstance(source, Mapping) and "n_images" in source:
        found["image"] = source["n_images"]
        if facts.get("n_images", found["image"]) != found["image"]:
            raise DamagedProductError(
                f"its facts state {facts['n_images']} images where its recipe has {found['image']}"
            )
    return found


def _n_chunks(
    spec: ArraySpec, kind: str, recipe: Mapping[str, Any], facts: Mapping[str, Any]
) -> int | None:
    """Return how many chunks (or shards) an array has; None where that is not stated."""
    if not spec.by_block:
        return 1
    if kind == "features":
        source, block = recipe.get("input"), recipe.get("block_images")
        n_images = source.get("n_images") if isinstance(source, Mapping) else None
        return -(-n_images // block) if _is_count(n_images) and _is_count(block) else None
    n_blocks = facts.get("n_blocks")
    return n_blocks if _is_count(n_blocks) else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
