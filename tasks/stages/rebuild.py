"""Rebuild a product from its recipe and the products in the store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from soapworks.errors import MissingProductError
from soapworks.storage_schemas.layout.recipes import (
    HeadRecipe,
    MomentsRecipe,
    PcaRecipe,
    Recipe,
    ResponsesRecipe,
    ScoresRecipe,
)
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Product, read_product
from soapworks.storage_schemas.store import Store
from soapworks.tasks.stages.export import make_head
from soapworks.tasks.stages.fit_pca import make_moments, make_pca
from soapworks.tasks.stages.respond import make_responses
from soapworks.tasks.stages.score import make_scores

REBUILDABLE = (MomentsRecipe, PcaRecipe, ResponsesRecipe, ScoresRecipe, HeadRecipe)
"""Recipes whose products the store alone suffices for."""


@dataclass
class Inputs:
    """Products by key, with one listing of the store per kind."""

    store: Store
    places: dict[str, dict[str, Location]] = field(default_factory=dict)

    def get(self, kind: str, key: str) -> Product:
        """Return a published product.

        Raises
        ------
        MissingProductError
            If it is not there.
        """
        if kind not in self.places:
            addresses = self.store.addresses(kind)
            self.places[kind] = {a.name.rpartition("-")[2]: a for a in addresses}
        place = self.places[kind].get(key[:12])
        found = read_product(place, key) if place else None
        if found is None:
            raise MissingProductError(f"the {kind} {key[:12]} are not in the store")
        return found

    def all(self, kind: str, keys: Sequence[str]) -> list[Product]:
        """Return several."""
        return [self.get(kind, key) for key in keys]


def inputs_of(inputs: Inputs, recipe: Recipe) -> dict[str, list[Product]]:
    """Return the products that a recipe names, by the recipe's field."""
    found = {}
    for name in ("features", "moments", "pca", "scores"):
        value = getattr(recipe, name, None)
        if value is not None and name != recipe.kind:
            found[name] = inputs.all(name, [value] if isinstance(value, str) else value)
    if isinstance(recipe, ScoresRecipe):
        found |= {"real": inputs.all("responses", recipe.real)}
        found |= {"synthetic": inputs.all("responses", recipe.synthetic)}
    return found


def rebuild(store: Store, inputs: Inputs, recipe: Recipe, *, memory: int, workers: int) -> Product:
    """Return the product of a recipe whose inputs are in the store.

    Parameters
    ----------
    store
        Where it goes.
    inputs
        Where its inputs are.
    recipe
        What is made.
    memory, workers
        Limit of the statistics, bytes, and threads.

    Raises
    ------
    MissingProductError
        If an input is not there, or the recipe needs more than products.
    DamagedProductError
        If an input is damaged.
    """
    of = inputs_of(inputs, recipe)
    match recipe:
        case MomentsRecipe():
            (features,) = of["features"]
            return make_moments(store, recipe, features, memory=memory, workers=workers)
        case PcaRecipe():
            return make_pca(store, recipe, of["moments"])
        case ResponsesRecipe():
            (features,), (pca,) = of["features"], of["pca"]
            return make_responses(store, recipe, features, pca, memory=memory, workers=workers)
        case ScoresRecipe():
            return make_scores(store, recipe, of["pca"][0], of["real"], of["synthetic"])
        case HeadRecipe():
            return make_head(store, recipe, of["pca"][0], of["scores"][0])
    raise MissingProductError(f"{recipe.kind} cannot be rebuilt from the store alone")
