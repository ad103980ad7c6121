"""Get a product: find it, wait for the process that is making it, or make it."""

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
"""Time between two looks at a product that another process is making, seconds."""


def get_or_make(store: Store, recipe: Recipe, make: Callable[[Attempt], dict[str, Any]]) -> Product:
    """Return the product of a recipe, made at most once by all who ask for it.

    Parameters
    ----------
    store
        Where products live.
    recipe
        Recipe of the product.
    make
        Writes the product's data into the attempt and returns the facts for its record; called
        only where the product is missing and nobody else is making it.

    Raises
    ------
    StoreError
        Where the store cannot be read or written.
    """

    def publish(attempts: Mapping[Recipe, Attempt]) -> None:
        attempts[recipe].publish(make(attempts[recipe]))

    return get_or_make_all(store, [recipe], publish)[0]


def get_or_make_all(
    store: Store, recipes: Sequence[R], make: Callable[[Mapping[R, Attempt]], None]
) -> list[Product]:
    """Return products that are made together, each at most once.

    Parameters
    ----------
    store
        Where products live.
    recipes
        Recipes of the products.
    make
        Writes and publishes the products whose attempts it is given: those that are missing and
        that nobody else is making. The others are waited for once nothing is left to do here.

    Raises
    ------
    StoreError
        Where the store cannot be read or written.
    """
    reported = False
    while True:
        with ExitStack() as held:
            started = time.monotonic()
            claims = _claim(store, recipes, held)
            claiming = time.monotonic() - started
            pairs = list(zip(recipes, claims, strict=True))
            attempts = {recipe: claim for recipe, claim in pairs if isinstance(claim, Attempt)}
            for attempt in attempts.values():
                report_rebuild(attempt)
            if attempts:
                try:
                    make(attempts)
                except LeaseLostError:
                    # Another process took over while this one stood still: look again.
                    continue
        found = [claim.product if isinstance(claim, Attempt) else claim for claim in claims]
        products = [product for product in found if product is not None]
        if len(products) == len(recipes):
            return products
        busy = [recipe for recipe, claim in pairs if claim is None]
        if busy and not attempts:
            if not reported:
                holder = store.holder(busy[0]) or "another process"
                emit(Waiting(f"{busy[0].kind} {busy[0].slug} is being made by {holder}"))
                reported = True
            while all(store.holder(r) is not None and store.find(r) is None for r in busy):
                time.sleep(POLL_SECONDS)
            # The leases of a dead holder expire one after the other, as they were first seen.
            # One pass makes all of them, so the last one is waited for.
            time.sleep(claiming + POLL_SECONDS if len(recipes) > 1 else 0)


def _claim(store: Store, recipes: Sequence[R], held: ExitStack) -> list[Product | Attempt | None]:
    """Claim all recipes; what may be made here is held until the stack is left.

    Two processes that want the same must not share it out between them: each would need a pass of
    its own. All claim in the same order, and the second waits until the first has claimed all.
    """
    for last in (len(recipes) == 1, True):
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
    """Emit a notice where the product was there and had been damaged."""
    if attempt.damage:
        more = f" and {len(attempt.damage) - 1} more" if len(attempt.damage) > 1 else ""
        emit(
            Notice(
                f"{attempt.recipe.kind} {attempt.recipe.slug} ({attempt.recipe.key[:12]}) was "
                f"damaged ({attempt.damage[0]}{more}) and is being rebuilt"
            )
        )


def require(store: Store, recipe: Recipe) -> Product:
    """Return a product that an earlier stage has made.

    Raises
    ------
    StoreError
        Where it is gone, for example deleted while the run was under way.
    """
    product = store.find(recipe)
    if product is None:
        raise StoreError(
            f"{recipe.kind} {recipe.slug} ({recipe.key[:12]}) was there and is gone or damaged: "
            "run the same command again"
        )
    return product
