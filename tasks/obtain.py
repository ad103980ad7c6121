"""Get a product: find it, wait for whoever is making it, or make it."""

import time
from collections.abc import Callable
from typing import Any

from soapworks.errors import StoreError
from storage_schemas.leases import LeaseLostError
from storage_schemas.recipes import Recipe
from storage_schemas.store import Attempt, Product, Store
from tasks.events import Waiting, emit

POLL_SECONDS = 0.5
"""How often a process that waits for another's work looks again, seconds."""


def obtain(store: Store, recipe: Recipe, make: Callable[[Attempt], dict[str, Any]]) -> Product:
    """Return the product of a recipe, made at most once whoever else asks for it.

    Parameters
    ----------
    store
        Where products live.
    recipe
        What is wanted.
    make
        Writes the product's data into the attempt and returns the facts for its record; called
        only where the product is missing and nobody else is making it.

    Raises
    ------
    StoreError
        Where the store cannot be read or written.
    """
    told = False
    while True:
        claimed = store.claim(recipe)
        if isinstance(claimed, Product):
            return claimed
        if claimed is None:
            if not told:
                holder = store.holder(recipe) or "another process"
                emit(Waiting(f"{recipe.kind} {recipe.slug} is being made by {holder}"))
                told = True
            time.sleep(POLL_SECONDS)
            continue
        try:
            with claimed as attempt:
                return attempt.publish(make(attempt))
        except LeaseLostError:
            # Someone took over while this process stood still: theirs is the product now.
            continue


def require(store: Store, recipe: Recipe) -> Product:
    """Return a product that an earlier stage has made.

    Raises
    ------
    StoreError
        Where it is gone, for example cleaned away while the run was under way.
    """
    product = store.find(recipe)
    if product is None:
        raise StoreError(
            f"{recipe.kind} {recipe.slug} ({recipe.key[:12]}) was there and is gone or damaged: "
            "run the same command again."
        )
    return product
