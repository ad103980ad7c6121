"""Housekeeping: choose what may go from a store, and delete it.

Never chosen is what a live lease protects: the product or work it stands for, and everything
about the same checkpoint, on which a run may be about to go on.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from soapworks.errors import DamagedProductError, StoreError
from soapworks.storage_schemas.layout.names import MAX_DOCUMENT_BYTES, decode
from soapworks.storage_schemas.leasing.lease_state import live_lease
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import read_product
from soapworks.storage_schemas.publishing.records import PARTS, RECIPE
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import stage
from soapworks.tasks.executors.threads import compute_each
from soapworks.tasks.maintenance.retention import (
    Retention,
    Stored,
    surplus_features,
    unreferenced,
    weights_of,
)

READERS = 8
"""Records read at once: from a bucket one waits for answers."""


@dataclass(frozen=True)
class Candidate:
    """Something that may go."""

    location: Location
    path: str
    """Path within the store."""
    n_bytes: int
    """Bytes of all its files."""
    reason: str
    published: bool
    """Whether it is a product, or unfinished work."""


@dataclass(frozen=True)
class Candidates:
    """What may go, and what was spared."""

    choices: tuple[Candidate, ...]
    spared: tuple[str, ...] = ()
    """Sentences about what was left out, and why."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all choices."""
        return sum(choice.n_bytes for choice in self.choices)


def choose(store: Store, retention: Retention, *, patience: float = 0.0) -> Candidates:
    """Return what may go under a retention; deletes nothing.

    Parameters
    ----------
    store
        The store.
    retention
        What is to be kept.
    patience
        Seconds to watch leases of other machines, whose holders may be dead: one that stands
        still for its whole time protects nothing.

    Raises
    ------
    DamagedProductError
        If products that cannot be read leave open what is referenced.
    StoreError
        If the store cannot be read.
    """
    # First, because it watches the leases that are asked for afterwards.
    leftovers = store.abandoned(patience=patience) if retention.abandoned or patience else []
    addresses = store.addresses()
    looks = list(compute_each(_look, addresses, workers=READERS))
    stored = [look for look in looks if isinstance(look, Stored)]
    spared: list[str] = []
    reasons: dict[Stored, str] = {}
    unclear = [look for look in looks if isinstance(look, str)]
    if unclear:
        spared.append(f"{len(unclear)} products cannot be read (soapworks verify): {unclear[0]}")
    if retention.unreferenced:
        if unclear:
            raise DamagedProductError(
                f"references cannot be followed: {unclear[0]}; run soapworks verify --repair, "
                "or leave out --unreferenced."
            )
        reasons, young = unreferenced(stored, retention.older_than)
        if young:
            hours = retention.older_than.total_seconds() / 3600
            spared.append(
                f"{len(young)} unreferenced products are younger than {hours:g} hours or inputs "
                "of such (--older-than)"
            )
    if retention.keep_features is not None:
        reasons |= surplus_features(stored, retention.keep_features)
    look_up = partial(live_lease, default_seconds=store.lease_seconds)
    leases = compute_each(look_up, addresses, workers=READERS)
    held = {address for address, lease in zip(addresses, leases, strict=True) if lease}
    busy = {weights for address in held if (weights := weights_of(_recipe_at(address)))}
    used = {one for one in reasons if one.location in held or one.weights in busy}
    if held:
        spared.append(
            f"{len(held)} products are being made (or were, by a process elsewhere that is dead: "
            f"--patience finds out); they and {len(used)} others of their checkpoints stay"
        )
    going = {one.location: reason for one, reason in reasons.items() if one not in used}
    n_bytes = compute_each(_n_bytes, list(going), workers=READERS)
    choices = [
        Candidate(address, _path(store, address), n, going[address], True)
        for address, n in zip(going, n_bytes, strict=True)
    ]
    if retention.abandoned:
        choices += [
            Candidate(place, _path(store, place), n, _what_is_left(place), False)
            for place, n in leftovers
            if not any(place.url.startswith(f"{address.url}/") for address in going)
        ]
    return Candidates(tuple(sorted(choices, key=lambda choice: choice.path)), tuple(spared))


def clean(store: Store, chosen: Candidates) -> tuple[list[Candidate], dict[str, str]]:
    """Delete what was chosen, except what somebody works on by now.

    Returns
    -------
    tuple
        What was deleted; and path -> reason of what was left.
    """
    deleted: list[Candidate] = []
    left: dict[str, str] = {}
    with stage("clean", store.url, len(chosen.choices), "items") as advance:
        for choice in chosen.choices:
            try:
                if _delete(store, choice):
                    deleted.append(choice)
                else:
                    left[choice.path] = "is gone or in use by now"
            except StoreError as error:
                left[choice.path] = str(error)
            advance(1)
    return deleted, left


def _delete(store: Store, choice: Candidate) -> bool:
    if not choice.published:
        return store.discard(choice.location)
    product = read_product(choice.location)
    if product is not None:
        store.delete(product)
    return product is not None


def _look(address: Location) -> Stored | str | None:
    """Return a product, None where none is published, or what is wrong with it."""
    try:
        product = read_product(address)
        if product is None:
            return None
        created = str(product.record["created"])
        return Stored(address, product.kind, product.key, created, product.facts, product.recipe)
    except StoreError as error:
        return f"{address.parent.name}/{address.name} cannot be read ({error})"


def _recipe_at(address: Location) -> dict[str, Any]:
    try:
        return decode((address / RECIPE).read_bytes(limit=MAX_DOCUMENT_BYTES), address)
    except StoreError:
        return {}


def _n_bytes(address: Location) -> int:
    return sum(address.sizes().values())


def _what_is_left(place: Location) -> str:
    n = len((place / PARTS).names())
    return f"unfinished work, {n} finished blocks" if n else "unfinished work"


def _path(store: Store, place: Location) -> str:
    return place.url.removeprefix(store.url + "/")
