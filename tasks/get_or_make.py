"""Get a product: find it, wait for whoever is making it, or make it."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from soapworks.errors import StoreError
from soapworks.storage_schemas.layout.recipes import Recipe
from soapworks.storage_schemas.leasing.leases import LeaseLostError
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Notice, Waiting, emit

R = TypeVar("R", bound=Recipe)

POLL_SECONDS = 0.5
"""How often a process that waits for another's work looks again, seconds."""


def get_or_make(store: Store, recipe: Recipe, make: Callable[[Attempt], dict[str, Any]]) -> Product:
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
                report_rebuild(attempt)
                return attempt.publish(make(attempt))
        except LeaseLostError:
            # Someone took over while this process stood still: theirs is the product now.
            continue


def get_or_make_all(
    store: Store, recipes: Sequence[R], make: Callable[[Mapping[R, Attempt]], None]
) -> list[Product]:
    """Return products that one piece of work makes together, each made at most once.

    Parameters
    ----------
    store
        Where products live.
    recipes
        What is wanted.
    make
        Writes and publishes the products whose attempts it is given: those that are missing and
        that nobody else is making. Those are waited for once there is nothing left to do here.

    Raises
    ------
    StoreError
        Where the store cannot be read or written.
    """
    told = False
    while True:
        with ExitStack() as held:
            started = time.monotonic()
            claims = _claim(store, recipes, held)
            claiming = time.monotonic() - started
            attempts = {
                recipe: claim
                for recipe, claim in zip(recipes, claims, strict=True)
                if isinstance(claim, Attempt)
            }
            for attempt in attempts.values():
                report_rebuild(attempt)
            if attempts:
                try:
                    make(attempts)
                except LeaseLostError:
                    # Someone took one over while this process stood still: look again.
                    continue
        if all(isinstance(claim, Product) for claim in claims):
            return [claim for claim in claims if isinstance(claim, Product)]
        busy = [r for r, claim in zip(recipes, claims, strict=True) if claim is None]
        if busy and not attempts:
            if not told:
                holder = store.holder(busy[0]) or "another process"
                emit(Waiting(f"{busy[0].kind} {busy[0].slug} is being made by {holder}"))
                told = True
            while all(store.holder(r) is not None and store.find(r) is None for r in busy):
                time.sleep(POLL_SECONDS)
            # The leases of a dead holder expire one after the other, as they were first seen.
            # One pass makes all of them, so the last one is waited for.
            time.sleep(claiming + POLL_SECONDS)


def _claim(store: Store, recipes: Sequence[R], held: ExitStack) -> list[Product | Attempt | None]:
    """Claim all that is wanted; what may be made here is held until the stack is left.

    Two processes that want the same must not share it out between them: each would need a pass of
    its own. All claim in the same order, and who comes second waits until the first has them all.
    """
    for last in (False, True):
        claims: list[Product | Attempt | None] = []
        for recipe in recipes:
            claim = store.claim(recipe)
            if claim is None and not last and not any(isinstance(c, Attempt) for c in claims):
                break
            claims.append(held.enter_context(claim) if isinstance(claim, Attempt) else claim)
        else:
            break
        time.sleep(POLL_SECONDS)
    return claims


def report_rebuild(attempt: Attempt) -> None:
    """Say so where what is made was there and had been damaged."""
    if attempt.mends:
        more = f" and {len(attempt.mends) - 1} more" if len(attempt.mends) > 1 else ""
        emit(
            Notice(
                f"{attempt.recipe.kind} {attempt.recipe.slug} ({attempt.recipe.key[:12]}) was "
                f"damaged ({attempt.mends[0]}{more}) and is made again"
            )
        )


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
