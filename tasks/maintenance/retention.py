"""Which products are kept: the rules alone, on what is known of every product."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from soapworks.storage_schemas.layout.recipes import input_keys
from soapworks.storage_schemas.locations.location import Location

INTERMEDIATE = ("features", "moments", "pca", "responses")
"""Kinds that are kept for the sake of what is made from them."""


@dataclass(frozen=True)
class Retention:
    """What is to be kept."""

    keep_features: int | None = None
    """Images whose features are kept, the most recently made ones; None keeps all."""
    abandoned: bool = True
    """Delete unfinished work that nobody goes on with."""
    unreferenced: bool = False
    """Delete what no score or head was made from, and manifests that newer ones replace."""
    older_than: timedelta = timedelta(hours=24)
    """Age from which a product counts as unreferenced; a younger one may be wanted by a run."""


@dataclass(frozen=True)
class Stored:
    """A product, without its list of files."""

    location: Location
    kind: str
    key: str
    created: str
    facts: dict[str, Any] = field(compare=False)
    recipe: dict[str, Any] = field(compare=False)

    @property
    def weights(self) -> str | None:
        """Digest of the checkpoint that it is about, if it is about one."""
        return weights_of(self.recipe)

    @property
    def age(self) -> timedelta:
        """Time since it was published; none where the record does not tell."""
        try:
            return datetime.now(UTC) - datetime.fromisoformat(self.created)
        except (ValueError, TypeError):
            return timedelta(0)


def weights_of(recipe: dict[str, Any]) -> str | None:
    """Return the digest of the checkpoint that a recipe is about."""
    subject = recipe.get("subject")
    return str(subject.get("weights")) if isinstance(subject, dict) else None


def surplus_features(stored: Iterable[Stored], n_images: int) -> dict[Stored, str]:
    """Return the features beyond the newest ``n_images`` images, with the reason to delete them.

    An image counts once per forward pass, however many layers it gave; what one pass made goes
    or stays together.
    """
    passes: dict[str, list[Stored]] = {}
    for one in stored:
        if one.kind == "features":
            subject = {k: v for k, v in one.recipe["subject"].items() if k != "layer"}
            same = json.dumps({**one.recipe, "subject": subject}, sort_keys=True)
            passes.setdefault(same, []).append(one)
    newest = sorted(
        passes.values(), key=lambda some: max((p.created, p.key) for p in some), reverse=True
    )
    found: dict[Stored, str] = {}
    room = n_images
    for some in newest:
        room -= some[0].recipe["input"]["n_images"]
        if room < 0:
            words = f"beyond the newest {n_images} images" if n_images else "none are kept"
            found |= dict.fromkeys(some, f"features: {words}")
    return found


def unreferenced(
    stored: Sequence[Stored], older_than: timedelta
) -> tuple[dict[Stored, str], list[Stored]]:
    """Return what nothing that is kept was made from.

    Kept are scores, heads, identities of checkpoints and whatever else is not an intermediate
    product, and all that they were made from; the newest manifest of every folder, and older
    ones with a segment that no newer one has: without them the folder would be cut otherwise.

    Returns
    -------
    tuple
        Product -> reason to delete it; and those that are too young to tell.
    """
    roots = [one for one in stored if one.kind not in (*INTERMEDIATE, "images")]
    young = [one for one in stored if one.age < older_than]
    referenced, wanted = _reached(stored, roots), _reached(stored, [*roots, *young])
    reasons = {
        one: "no score or head is made from it" for one in stored if one.kind in INTERMEDIATE
    }
    newer: dict[str, list[set[str]]] = {}
    manifests = [one for one in stored if one.kind == "images"]
    for one in sorted(manifests, key=lambda one: (one.created, one.key), reverse=True):
        segments, folder = set(one.recipe["segments"]), str(one.facts.get("folder"))
        others = newer.setdefault(folder, [])
        if any(segments <= other for other in others):
            reasons[one] = f"a newer manifest of {folder} has all its images"
        others.append(segments)
    lost = {one: why for one, why in reasons.items() if one.key not in referenced}
    spared = [one for one in lost if one.key in wanted]
    return {one: why for one, why in lost.items() if one not in spared}, spared


def _reached(stored: Iterable[Stored], roots: Iterable[Stored]) -> set[str]:
    """Return the keys of the roots and of all that they were made from."""
    by_key = {one.key: one for one in stored}
    reached, ahead = set[str](), [one.key for one in roots]
    while ahead:
        key = ahead.pop()
        if key in by_key and key not in reached:
            reached.add(key)
            ahead += input_keys(by_key[key].recipe)
    return reached
